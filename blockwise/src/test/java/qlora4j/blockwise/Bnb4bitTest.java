package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The checkpoint layout. {@code bnb4bit.safetensors} holds two weights of the recorded mistral checkpoint, as
 * bitsandbytes wrote them, and beside each its float32 original under {@code base.}.
 */
class Bnb4bitTest {
    private static final List<String> WEIGHTS = List.of("model.layers.0.mlp.down_proj.weight",
            "model.layers.2.self_attn.o_proj.weight");

    @TempDir
    private Path folder;

    @Test
    void whatIsReadIsWrittenByteForByte() throws IOException {
        Path copy = folder.resolve("copy.safetensors");
        try (Safetensors recorded = Golden.open("bnb4bit.safetensors")) {
            SafetensorsWriter writer = new SafetensorsWriter();
            for (String name : WEIGHTS) {
                assertThat(Bnb4bit.contains(recorded, name)).isTrue();
                Bnb4bit.write(writer, name, Bnb4bit.read(recorded, name));
                writer.add("base." + name, recorded.tensor("base." + name));
                assertThat(Bnb4bit.contains(recorded, "base." + name)).isFalse();
            }
            writer.write(copy);
        }
        assertThat(copy).hasSameBinaryContentAs(Golden.path("bnb4bit.safetensors"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void theOriginalQuantizesToTheRecordedWeight(String backendName) throws IOException {
        try (Safetensors recorded = Golden.open("bnb4bit.safetensors");
                Backend backend = Backends.open(backendName);
                Stream stream = backend.openStream()) {
            for (String name : WEIGHTS) {
                QuantizedTensor expected = Bnb4bit.read(recorded, name).copyTo(backend);
                assertThat(expected.config()).isEqualTo(QuantConfig.QLORA);
                QuantizedTensor ours = Blockwise.quantize(stream, recorded.tensor("base." + name), expected.config())
                        .toHost(backend);
                Golden.assertSame(name, ours.packed(), expected.packed());
                // The recorded mean is a float32 sum of at most 256 constants: 8 levels of half an ulp.
                assertThat(Math.abs(ours.offset().get(0) / expected.offset().get(0) - 1)).isLessThan(8 * 0x1p-24);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"NF4, true, BF16", "FP4, true, F16", "NF4, false, F32", "FP4, false, BF16"})
    void everyKindComesBack(QuantType type, boolean nested, DType dtype) throws IOException {
        Path file = folder.resolve("model.safetensors");
        try (Backend backend = Backends.open(Backend.SCALAR); Stream stream = backend.openStream()) {
            Tensor x = Tensor.zeros(dtype, 5, 33);
            for (int i = 0; i < x.size(); i++) {
                x.set(i, Math.sin(i));
            }
            QuantizedTensor w = Blockwise.quantize(stream, x, new QuantConfig(type, 32, nested));
            SafetensorsWriter writer = new SafetensorsWriter();
            Bnb4bit.write(writer, "a.weight", w);
            writer.write(file);
            try (Safetensors written = Safetensors.open(file)) {
                assertThat(written.info("a.weight").shape()).containsExactly(83, 1);
                QuantizedTensor back = Bnb4bit.read(written, "a.weight");
                assertThat(back.config()).isEqualTo(w.config());
                assertThat(back.dtype()).isEqualTo(dtype);
                assertThat(back.shape()).containsExactly(5, 33);
                Golden.assertSame("codes", back.packed(), w.packed());
                Golden.assertSame("absmax", back.absmax(), w.absmax());
                if (nested) {
                    Golden.assertSame("absmax2", back.absmax2(), w.absmax2());
                    Golden.assertSame("offset", back.offset(), w.offset());
                }
                assertThat(written.names()).filteredOn(n -> !Bnb4bit.isPartOfWeight(n)).containsExactly("a.weight");
            }
        }
    }

    @Test
    void stateIsWrittenAsPythonDoes() {
        QuantConfig plain = new QuantConfig(QuantType.FP4, 128, false);
        QuantState state = new QuantState(plain, DType.BF16, new long[]{3, 4}, null);
        assertThat(new String(state.toJson(), StandardCharsets.US_ASCII)).isEqualTo(
                "{\"quant_type\": \"fp4\", \"blocksize\": 128, \"dtype\": \"bfloat16\", \"shape\": [3, 4]}");
    }

    @ParameterizedTest
    @CsvSource({"0, 0.0", "-0.0, -0.0", "1, 1.0", "0.0001, 0.0001", "0.00001, 1e-05", "1.5e-7, 1.5e-07",
            "123456789012345680, 1.2345678901234568e+17", "1e16, 1e+16", "9999999999999998, 9999999999999998.0",
            "-0.20981711149215698, -0.20981711149215698", "1.401298464324817E-45, 1.401298464324817e-45",
            "100, 100.0", "NaN, NaN", "Infinity, Infinity", "-Infinity, -Infinity", "2.5e-300, 2.5e-300"})
    void numbersArePrintedAsPythonDoes(double value, String expected) {
        assertThat(QuantState.pythonRepr(value)).isEqualTo(expected);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
            "[1]|expected START_OBJECT",
            "{\"quant_type\": \"nf4\"}|must all be there",
            "{\"quant_type\": \"int4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [8]}|int4",
            "{\"quant_type\": \"nf4\", \"blocksize\": 63, \"dtype\": \"float32\", \"shape\": [8]}|blocksize 63",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"int8\", \"shape\": [8]}|int8",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"blocksize\": 64}|blocksize",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [\"8\"]}|VALUE_STRING",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [-8]}|impossible",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [9]}|needs 5",
            "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [8]}|quant_type is fp4",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [8], "
                    + "\"nested_blocksize\": 128, \"nested_dtype\": \"float32\", \"nested_offset\": 0.5}|128",
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [8]|it is not JSON"})
    void badStatesAreNamed(String json, String message) throws IOException {
        byte[] bytes = json.getBytes(StandardCharsets.UTF_8);
        Tensor state = Tensor.zeros(DType.U8, bytes.length);
        for (int i = 0; i < bytes.length; i++) {
            state.set(i, bytes[i]);
        }
        assertUnreadable(message, "w.weight", new SafetensorsWriter().add("w.weight", Tensor.zeros(DType.U8, 4, 1))
                .add("w.weight.quant_map", Tensor.of(QuantType.NF4.codebook().quantMap(), 16))
                .add("w.weight.absmax", Tensor.of(new float[1], 1))
                .add("w.weight.quant_state.bitsandbytes__nf4", state));
    }

    @Test
    void badPartsAreNamed() throws IOException {
        byte[] json =
                new QuantState(new QuantConfig(QuantType.NF4, 64, false), DType.F32, new long[]{8}, null).toJson();
        Tensor state = Tensor.zeros(DType.U8, json.length);
        for (int i = 0; i < json.length; i++) {
            state.set(i, json[i]);
        }
        Tensor codes = Tensor.zeros(DType.U8, 4, 1);
        Tensor map = Tensor.of(QuantType.NF4.codebook().quantMap(), 16);
        String stateName = "w.weight.quant_state.bitsandbytes__nf4";
        assertUnreadable("no 4-bit weight", "w.weight", new SafetensorsWriter().add("w.weight", codes));
        assertUnreadable("no tensor", "w.weight.absmax", new SafetensorsWriter().add("w.weight", codes)
                .add("w.weight.quant_map", map).add(stateName, state));
        assertUnreadable("needs 1 of F32", "w.weight.absmax", new SafetensorsWriter().add("w.weight", codes)
                .add("w.weight.quant_map", map).add("w.weight.absmax", Tensor.zeros(DType.U8, 1))
                .add(stateName, state));
        assertUnreadable("entry 0 is 0.0", "w.weight.quant_map", new SafetensorsWriter().add("w.weight", codes)
                .add("w.weight.quant_map", Tensor.zeros(DType.F32, 16)).add(stateName, state));
    }

    private void assertUnreadable(String message, String tensor, SafetensorsWriter writer) throws IOException {
        Path file = folder.resolve("bad.safetensors");
        writer.write(file);
        try (Safetensors bad = Safetensors.open(file)) {
            assertThatThrownBy(() -> Bnb4bit.read(bad, "w.weight")).isInstanceOf(IOException.class)
                    .hasMessageContaining(message).hasMessageContaining(tensor);
        }
    }
}
