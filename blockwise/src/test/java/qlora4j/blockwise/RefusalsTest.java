package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What does not fit is refused, and named, before a kernel reads or writes an element of it. */
class RefusalsTest {
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    private static final PlanBackend OTHER = new PlanBackend();
    private static final Stream S = SCALAR.openStream();
    /** Memory that two tensors have in common. */
    private static final Allocation COMMON = SCALAR.allocate(4096, MemoryUse.WORKSPACE);
    private static final String DEVICE = "is not on the stream's device cpu";
    private static final String OVERLAP = "overlaps input";

    /** A call that must fail, and a part of its message. */
    private record Call(String what, ThrowingCallable call, String message) {
        @Override
        public String toString() {
            return what;
        }
    }

    private static Tensor f32(long... shape) {
        return Tensor.zeros(DType.F32, shape);
    }

    private static Tensor of(DType type, long... shape) {
        return Tensor.zeros(type, shape);
    }

    private static Tensor other(DType type, long... shape) {
        return OTHER.allocate(MemoryUse.WORKSPACE, type, shape);
    }

    private static Tensor common(DType type, long... shape) {
        return COMMON.tensor(0, type, shape);
    }

    /** A matrix [2, 64]. */
    private static QuantizedTensor weight(Tensor packed, Tensor absmax) {
        return new QuantizedTensor(QuantConfig.QLORA, DType.F32, new long[]{2, 64}, packed, absmax, f32(1), f32(1));
    }

    private static QuantizedTensor weight() {
        return weight(of(DType.U8, 64), of(DType.U8, 2));
    }

    private static List<QuantizedTensor> weightsElsewhere() {
        return List.of(weight(other(DType.U8, 64), of(DType.U8, 2)), weight(of(DType.U8, 64), other(DType.U8, 2)));
    }

    static List<Call> fourBits() {
        List<Call> calls = new ArrayList<>();
        calls.add(new Call("quantize integers", () -> Blockwise.quantize(S, of(DType.I32, 2, 64), weight()),
                "x is I32[2, 64], expected F64, F32, BF16 or F16"));
        calls.add(new Call("quantize from elsewhere",
                () -> Blockwise.quantize(S, other(DType.F32, 2, 64), weight()), DEVICE));
        calls.add(new Call("quantize another shape", () -> Blockwise.quantize(S, f32(64, 2), weight()),
                "the shapes differ"));
        calls.add(new Call("quantize over the codes", () -> Blockwise.quantize(S, common(DType.F32, 2, 64),
                weight(common(DType.U8, 64), of(DType.U8, 2))), OVERLAP));
        calls.add(new Call("quantize over the constants", () -> Blockwise.quantize(S, common(DType.F32, 2, 64),
                weight(of(DType.U8, 64), common(DType.U8, 2))), OVERLAP));
        calls.add(new Call("dequantize to integers", () -> Blockwise.dequantize(S, weight(), of(DType.I32, 128)),
                "out is I32[128], expected F64"));
        calls.add(new Call("dequantize to elsewhere",
                () -> Blockwise.dequantize(S, weight(), other(DType.F32, 128)), DEVICE));
        calls.add(new Call("dequantize to fewer", () -> Blockwise.dequantize(S, weight(), f32(127)),
                "out is F32[127], expected 128 elements"));
        calls.add(new Call("dequantize over the codes", () -> Blockwise.dequantize(S,
                weight(common(DType.U8, 64), of(DType.U8, 2)), common(DType.F32, 128)), OVERLAP));
        calls.add(new Call("constants elsewhere", () -> Blockwise.scales(S, weight(), other(DType.F32, 2)), DEVICE));
        calls.add(new Call("constants in bfloat16", () -> Blockwise.scales(S, weight(), of(DType.BF16, 2)),
                "scales is BF16[2], expected F32"));
        calls.add(new Call("more constants", () -> Blockwise.scales(S, weight(), f32(3)),
                "scales is F32[3], expected 2 elements"));
        calls.add(new Call("constants over their codes", () -> Blockwise.scales(S,
                weight(of(DType.U8, 64), common(DType.U8, 2)), common(DType.F32, 2)), OVERLAP));
        for (QuantizedTensor w : weightsElsewhere()) {
            calls.add(new Call("quantize to elsewhere", () -> Blockwise.quantize(S, f32(2, 64), w), DEVICE));
            calls.add(new Call("dequantize from elsewhere", () -> Blockwise.dequantize(S, w, f32(128)), DEVICE));
            calls.add(new Call("constants from elsewhere", () -> Blockwise.scales(S, w, f32(2)), DEVICE));
            calls.add(new Call("product elsewhere", () -> Blockwise.matmul(S, f32(3, 64), w, f32(3, 2)), DEVICE));
            calls.add(new Call("gradient elsewhere",
                    () -> Blockwise.matmulBackward(S, f32(3, 2), w, false, f32(3, 64)), DEVICE));
        }
        return calls;
    }

    private static Call product(String what, Tensor x, Tensor y, String message) {
        return new Call("product: " + what, () -> Blockwise.matmul(S, x, weight(), y), message);
    }

    private static Call gradient(String what, Tensor dy, Tensor dx, String message) {
        return new Call("gradient: " + what, () -> Blockwise.matmulBackward(S, dy, weight(), true, dx), message);
    }

    static List<Call> products() {
        return List.of(
                product("integers", of(DType.I32, 3, 64), of(DType.I32, 3, 2), "x is I32[3, 64], expected F64"),
                product("two types", f32(3, 64), of(DType.BF16, 3, 2), "y is BF16[3, 2], expected F32"),
                product("x elsewhere", other(DType.F32, 3, 64), f32(3, 2), DEVICE),
                product("y elsewhere", f32(3, 64), other(DType.F32, 3, 2), DEVICE),
                product("more rows", f32(3, 64), f32(4, 2), "expected as many rows"),
                product("no row", f32(), f32(), "expected as many rows"),
                product("x too narrow", f32(3, 63), f32(3, 2), "x is F32[3, 63], expected 64 columns"),
                product("y too wide", f32(3, 64), f32(3, 3), "y is F32[3, 3], expected 2 columns"),
                product("in place", common(DType.F32, 3, 64), common(DType.F32, 3, 2), OVERLAP),
                gradient("dy too wide", f32(3, 3), f32(3, 64), "dy is F32[3, 3], expected 2 columns"),
                gradient("dx too narrow", f32(3, 2), f32(3, 63), "dx is F32[3, 63], expected 64 columns"),
                gradient("in place", common(DType.F32, 3, 2), common(DType.F32, 3, 64), OVERLAP));
    }

    /** Both directions of the 8-bit codes take the same tensors. */
    private static void add8(List<Call> calls, String what, Tensor x, Tensor offset, int blocksize, Tensor codes,
            Tensor absmax, String message) {
        calls.add(new Call("quantize8: " + what,
                () -> Blockwise.quantize8(S, x, offset, DynamicMap.SIGNED, blocksize, codes, absmax), message));
        calls.add(new Call("dequantize8: " + what,
                () -> Blockwise.dequantize8(S, codes, absmax, offset, DynamicMap.SIGNED, blocksize, x), message));
    }

    static List<Call> eightBits() {
        List<Call> calls = new ArrayList<>();
        Tensor x = f32(128);
        Tensor codes = of(DType.U8, 128);
        add8(calls, "integers", of(DType.I32, 128), null, 64, codes, f32(2), " is I32[128], expected F64");
        add8(calls, "blocks of 48", x, null, 48, codes, f32(3), "48");
        add8(calls, "wide codes", x, null, 64, f32(128), f32(2), "codes is F32[128], expected U8");
        add8(calls, "wide constants", x, null, 64, codes, of(DType.F64, 2), "absmax is F64[2], expected F32");
        add8(calls, "fewer codes", x, null, 64, of(DType.U8, 127), f32(2), "codes is U8[127], expected 128");
        add8(calls, "more constants", x, null, 64, codes, f32(3), "absmax is F32[3], expected 2");
        add8(calls, "wide offset", x, of(DType.F64, 1), 64, codes, f32(2), "offset is F64[1], expected F32");
        add8(calls, "two offsets", x, f32(2), 64, codes, f32(2), "offset is F32[2], expected 1");
        add8(calls, "offset elsewhere", x, other(DType.F32, 1), 64, codes, f32(2), DEVICE);
        add8(calls, "codes elsewhere", x, f32(1), 64, other(DType.U8, 128), f32(2), DEVICE);
        add8(calls, "constants elsewhere", x, f32(1), 64, codes, other(DType.F32, 2), DEVICE);
        add8(calls, "numbers elsewhere", other(DType.F32, 128), f32(1), 64, codes, f32(2), DEVICE);
        add8(calls, "codes over numbers", common(DType.F32, 128), null, 64, common(DType.U8, 128), f32(2), OVERLAP);
        add8(calls, "constants over numbers", common(DType.F32, 128), null, 64, codes, common(DType.F32, 2), OVERLAP);
        return calls;
    }

    @ParameterizedTest
    @MethodSource({"fourBits", "products", "eightBits"})
    void whatDoesNotFitIsNamed(Call call) {
        assertThatIllegalArgumentException().isThrownBy(call.call).withMessageContaining(call.message);
    }

    private static QuantizedTensor tensor(boolean nested, DType type, Tensor packed, Tensor absmax, Tensor absmax2,
            Tensor offset) {
        return new QuantizedTensor(new QuantConfig(QuantType.NF4, 64, nested), type, new long[]{2, 64}, packed, absmax,
                absmax2, offset);
    }

    static List<Call> parts() {
        Tensor packed = of(DType.U8, 64);
        Tensor codes = of(DType.U8, 2);
        return List.of(
                new Call("no codes", () -> tensor(true, DType.F32, null, codes, f32(1), f32(1)), "packed is null"),
                new Call("an odd byte", () -> tensor(true, DType.F32, of(DType.U8, 65), codes, f32(1), f32(1)),
                        "packed is U8[65], expected U8 with 64 elements"),
                new Call("plain constants", () -> tensor(true, DType.F32, packed, f32(2), f32(1), f32(1)),
                        "absmax is F32[2], expected U8 with 2"),
                new Call("nested constants", () -> tensor(false, DType.F32, packed, codes, null, null),
                        "absmax is U8[2], expected F32 with 2"),
                new Call("two of the second level", () -> tensor(true, DType.F32, packed, codes, f32(2), f32(1)),
                        "absmax2 is F32[2], expected F32 with 1"),
                new Call("no offset", () -> tensor(true, DType.F32, packed, codes, f32(1), null), "offset is null"),
                new Call("a second level", () -> tensor(false, DType.F32, packed, f32(2), f32(1), null),
                        "absmax2 and offset belong to double quantization"),
                new Call("an offset alone", () -> tensor(false, DType.F32, packed, f32(2), null, f32(1)),
                        "absmax2 and offset belong to double quantization"),
                new Call("of integers", () -> tensor(true, DType.I32, packed, codes, f32(1), f32(1)),
                        "a quantized tensor of I32"));
    }

    @ParameterizedTest
    @MethodSource("parts")
    void partsThatDoNotBelongTogetherAreNamed(Call call) {
        assertThatIllegalArgumentException().isThrownBy(call.call).withMessageContaining(call.message);
    }

    /** Constants that are not nested are the constants; a copy and its way back hold the same. */
    @ParameterizedTest
    @CsvSource({"true, 'double quantization'", "false, 'blocks of 64, was'"})
    void aCopyHoldsTheSame(boolean nested, String said) {
        Tensor x = f32(3, 50);
        for (int i = 0; i < x.size(); i++) {
            x.set(i, Math.sin(i));
        }
        QuantizedTensor w = Blockwise.quantize(S, x, new QuantConfig(QuantType.NF4, 64, nested));
        QuantizedTensor copy = w.copyTo(SCALAR).toHost(SCALAR);
        Tensor a = f32(150);
        Tensor b = f32(150);
        Blockwise.dequantize(S, w, a);
        Blockwise.dequantize(S, copy, b);
        assertThat(b.toFloats()).isEqualTo(a.toFloats());
        assertThat(a.get(7)).isNotZero();
        Tensor scales = f32(3);
        Blockwise.scales(S, w, scales);
        // The code of a block's largest element is 0 or 15, whose values are -1 and 1: it dequantizes to the constant.
        for (int block = 0; block < 3; block++) {
            float largest = 0;
            for (int i = 64 * block; i < Math.min(150, 64 * block + 64); i++) {
                largest = Math.max(largest, Math.abs((float) a.get(i)));
            }
            assertThat((float) scales.get(block)).isEqualTo(largest);
        }
        assertThat(w.toString()).startsWith("nf4[3, 50] (blocks of 64").contains(said).endsWith("was F32)");
    }

    /** A key of bitsandbytes' JSON with a value of another kind. */
    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"quant_type | 4 | VALUE_STRING", "dtype | null | VALUE_STRING",
            "blocksize | \"64\" | VALUE_NUMBER_INT", "blocksize | 64.5 | VALUE_NUMBER_INT", "shape | 8 | START_ARRAY",
            "shape | [\"8\"] | VALUE_NUMBER_INT", "shape | [8.5] | VALUE_NUMBER_INT",
            "nested_blocksize | true | VALUE_NUMBER_INT", "nested_dtype | 1 | VALUE_STRING",
            "nested_offset | \"0.5\" | VALUE_NUMBER_FLOAT"})
    void aValueOfAnotherKindIsNamed(String key, String value, String expected) {
        String json = """
                {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8], "nested_blocksize": 256, \
                "nested_dtype": "float32", "nested_offset": 0.5}""";
        String bad = json.replaceFirst("\"" + key + "\": (\\[8\\]|\"[a-z0-9]+\"|[0-9.]+)",
                "\"" + key + "\": " + value.replace("\\", "\\\\"));
        assertThat(bad).isNotEqualTo(json);
        assertThatThrownBy(() -> QuantState.parse(bad.getBytes(StandardCharsets.UTF_8)))
                .isInstanceOf(IOException.class).hasMessageContaining("expected " + expected);
    }

    @Test
    void aWholeOffsetIsANumberAndAListIsNoState() throws IOException {
        String json = """
                {"quant_type": "fp4", "blocksize": 128, "dtype": "bfloat16", "shape": [2, 3], "unknown": {"a": [1]}, \
                "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 2}""";
        QuantState state = QuantState.parse(json.getBytes(StandardCharsets.UTF_8));
        assertThat(state.offset()).isEqualTo(2f);
        assertThat(state.toString()).contains("fp4").contains("128").endsWith("of BF16[2, 3]");
        assertThatThrownBy(() -> QuantState.parse("[1]".getBytes(StandardCharsets.UTF_8)))
                .hasMessageContaining("expected START_OBJECT");
    }
}
