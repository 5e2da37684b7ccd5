package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Predicate;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * 4-bit checkpoints as people publish them: FP4 and NF4, with and without double quantization, other block sizes, modules
 * left dense, a head in 4 bits, several files. Each is run and trained on, against the same weights dequantized.
 */
class PublishedCheckpointsTest {
    private static final TokenBatch BATCH = TinyModel.labelled(TinyModel.sequences(1, 6, 9));
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @TempDir
    Path directory;

    @AfterAll
    static void close() {
        CPU.close();
    }

    /** Writes two directories' weights: in 4 bits where {@code packed} says so, and the same values dense. */
    private DecoderConfig write(QuantConfig how, Predicate<String> packed, boolean sharded) throws IOException {
        Path dense = directory.resolve("dense.safetensors");
        Path source = TinyModel.write(directory.resolve("source.safetensors"), TinyModel.LLAMA);
        Map<String, String> shardOf = new TreeMap<>();
        SafetensorsWriter values = new SafetensorsWriter();
        SafetensorsWriter[] shards = {new SafetensorsWriter(), new SafetensorsWriter()};
        try (Safetensors file = Safetensors.open(source); Stream s = CPU.openStream()) {
            int n = 0;
            for (String name : file.names()) {
                Tensor t = file.tensor(name);
                int shard = sharded ? n++ % 2 : 0;
                if (packed.test(name) && t.rank() == 2) {
                    QuantizedTensor w = Blockwise.quantize(s, t, how);
                    Tensor back = Tensor.zeros(DType.F32, t.shape());
                    Blockwise.dequantize(s, w, back);
                    values.add(name, back);
                    Bnb4bit.write(shards[shard], name, w);
                } else {
                    values.add(name, t);
                    shards[shard].add(name, t);
                }
            }
            values.write(dense);
            for (int i = 0; i < (sharded ? 2 : 1); i++) {
                Path file2 = directory.resolve(sharded ? "model-0000" + (i + 1) + "-of-00002.safetensors"
                        : "model.safetensors");
                shards[i].write(file2);
                try (Safetensors written = Safetensors.open(file2)) {
                    written.names().forEach(name -> shardOf.put(name, file2.getFileName().toString()));
                }
            }
        }
        if (sharded) {
            JsonFile.MAPPER.writeValue(directory.resolve("model.safetensors.index.json").toFile(),
                    Map.of("metadata", Map.of("total_size", 1), "weight_map", shardOf));
        }
        return TinyModel.LLAMA.withQuantization(new Quantization4bit(how.type(), how.nested(), DType.F32,
                List.of("lm_head", "mlp.down_proj")));
    }

    @ParameterizedTest
    @CsvSource({"NF4,64,true,false", "NF4,64,false,true", "FP4,64,true,true", "FP4,128,false,false",
            "NF4,32,true,false", "NF4,4096,false,false"})
    void runAndTrainAsTheirDequantizedValues(QuantType type, int blocksize, boolean nested, boolean sharded)
            throws IOException {
        QuantConfig how = new QuantConfig(type, blocksize, nested);
        boolean head = blocksize == 32;
        DecoderConfig config = write(how, n -> n.startsWith("model.layers.") && !n.contains("down_proj")
                || head && n.startsWith("lm_head"), sharded);
        Decoder reference = TinyModel.load(directory.resolve("dense.safetensors"), TinyModel.LLAMA, CPU, DType.F32,
                false);
        try (SafetensorsModel view = SafetensorsModel.open(directory)) {
            assertThat(ModelTensors.check(config, view)).matches(ModelTensors.Report::isClean);
            Decoder decoder = DecoderLoader.QLORA.load(config, view, CPU);
            decoder.linears().forEach((name, linear) -> {
                boolean quantized = linear.weight() instanceof LinearWeight.Quantized;
                assertThat(quantized).as(name).isEqualTo(!name.contains("down_proj"));
                if (linear.weight() instanceof LinearWeight.Quantized q) {
                    assertThat(q.w().config()).as(name).isEqualTo(how);
                }
            });
            List<float[]> ours = TinyModel.logits(decoder, BATCH, Adapters.NONE);
            List<float[]> expected = TinyModel.logits(reference, BATCH, Adapters.NONE);
            for (int i = 0; i < ours.size(); i++) {
                for (int j = 0; j < ours.get(i).length; j++) {
                    // Sums of at most 24 terms of magnitude one in fourteen layers, in another order.
                    assertThat(Math.abs(ours.get(i)[j] - expected.get(i)[j])).isLessThanOrEqualTo(1e-4f);
                }
            }
            double norm = gradient(reference);
            assertThat(Math.abs(gradient(decoder) - norm)).isLessThanOrEqualTo(1e-4 * norm);
        }
    }

    /** The norm of an adapter's gradients. */
    private static double gradient(Decoder decoder) {
        try (Stream s = CPU.openStream(); Adapter adapter = TinyModel.adapter(decoder, 0, 3, 6)) {
            TinyModel.loss(s, decoder, BATCH, adapter.use(), new LossOptions(true, true));
            Tensor g = adapter.parameters().flatGrads();
            double sum = 0;
            for (long i = 0; i < g.size(); i++) {
                sum += g.get(i) * g.get(i);
            }
            assertThat(sum).isFinite().isPositive();
            return Math.sqrt(sum);
        }
    }

    @Test
    void aWeightOfAnotherShapeIsNamed() throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter();
        Path source = TinyModel.write(directory.resolve("source.safetensors"), TinyModel.LLAMA);
        String wrong = "model.layers.1.mlp.up_proj.weight";
        try (Safetensors file = Safetensors.open(source); Stream s = CPU.openStream()) {
            for (String name : file.names()) {
                if (name.equals(wrong)) {
                    Bnb4bit.write(writer, name, Blockwise.quantize(s, Tensor.zeros(DType.F32, 16, 24),
                            QuantConfig.QLORA));
                } else {
                    writer.add(name, file.tensor(name));
                }
            }
            writer.write(directory.resolve("model.safetensors"));
        }
        assertThat(Files.exists(directory.resolve("model.safetensors"))).isTrue();
        try (SafetensorsModel view = SafetensorsModel.open(directory)) {
            assertThatThrownBy(() -> DecoderLoader.QLORA.load(TinyModel.LLAMA, view, CPU))
                    .isInstanceOf(IOException.class).hasMessageContaining(wrong).hasMessageContaining("[24, 16]");
        }
    }
}
