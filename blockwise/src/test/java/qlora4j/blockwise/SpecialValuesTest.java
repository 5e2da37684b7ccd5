package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What blocks with NaN, infinity, zeros and tiny numbers give, and which arguments are refused. */
class SpecialValuesTest {
    private static final QuantConfig PLAIN = new QuantConfig(QuantType.NF4, 32, false);

    private static float[] roundTrip(String backendName, float... values) {
        try (Backend backend = Backends.open(backendName); Stream stream = backend.openStream()) {
            Tensor out = Golden.poisoned(DType.F32, values.length);
            Blockwise.dequantize(stream, Blockwise.quantize(stream, Tensor.of(values, values.length), PLAIN), out);
            return out.toFloats();
        }
    }

    /** A block of 32 with {@code special} in it, and a block of ones. */
    private static float[] withSpecial(float special) {
        float[] x = new float[64];
        Arrays.fill(x, 0, 32, 0.5f);
        Arrays.fill(x, 32, 64, 1f);
        x[5] = special;
        return x;
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void aNanSpoilsItsBlockAndNoOther(String backend) {
        float[] y = roundTrip(backend, withSpecial(Float.NaN));
        for (int i = 0; i < 32; i++) {
            assertThat(y[i]).isNaN();
            assertThat(y[32 + i]).isEqualTo(1f);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void anInfinitySpoilsItsBlockAndNoOther(String backend) {
        float[] y = roundTrip(backend, withSpecial(Float.POSITIVE_INFINITY));
        for (int i = 0; i < 32; i++) {
            if (i == 5) {
                assertThat(y[i]).as("code 0 times infinity").isEqualTo(Float.NEGATIVE_INFINITY);
            } else {
                assertThat(y[i]).as("zero times infinity").isNaN();
            }
            assertThat(y[32 + i]).isEqualTo(1f);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void zerosOfEitherSignStayZero(String backend) {
        assertThat(roundTrip(backend, 0f, -0f, 0f)).containsExactly(0f, 0f, 0f);
        assertThat(roundTrip(backend, -0f, 1f)).containsExactly(0f, 1f);
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void theSmallestNumberSurvives(String backend) {
        assertThat(roundTrip(backend, Float.MIN_VALUE, -Float.MIN_VALUE, 0f)).containsExactly(Float.MIN_VALUE,
                -Float.MIN_VALUE, 0f);
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void noElementsAreFine(String backend) {
        assertThat(roundTrip(backend)).isEmpty();
    }

    @Test
    void badArgumentsAreNamed() {
        assertThatThrownBy(() -> new QuantConfig(QuantType.NF4, 48, true)).hasMessageContaining("blocksize 48");
        assertThatThrownBy(() -> QuantType.named("int4")).hasMessageContaining("int4").hasMessageContaining("nf4");
        try (Backend backend = Backends.open(Backend.SCALAR); Stream stream = backend.openStream()) {
            assertThatThrownBy(() -> Blockwise.quantize(stream, Tensor.zeros(DType.I32, 4), PLAIN))
                    .isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(() -> Blockwise.quantize(stream, Tensor.of(new int[4], 4).view(2, 2), PLAIN))
                    .isInstanceOf(IllegalArgumentException.class);
            QuantizedTensor w = Blockwise.quantize(stream, Tensor.zeros(DType.F32, 6, 8), PLAIN);
            assertThatThrownBy(() -> Blockwise.dequantize(stream, w, Tensor.zeros(DType.F32, 47)))
                    .hasMessageContaining("48 elements");
            assertThatThrownBy(() -> Blockwise.dequantize(stream, w, Tensor.zeros(DType.U8, 48)))
                    .hasMessageContaining("expected F64, F32, BF16 or F16");
            Tensor x = Tensor.zeros(DType.F32, 3, 8);
            assertThatThrownBy(() -> Blockwise.matmul(stream, x, w, Tensor.zeros(DType.F32, 3, 7)))
                    .hasMessageContaining("expected 6 columns");
            assertThatThrownBy(() -> Blockwise.matmul(stream, x, w, Tensor.zeros(DType.F32, 2, 6)))
                    .hasMessageContaining("as many rows");
            assertThatThrownBy(() -> Blockwise.matmul(stream, x, w, Tensor.zeros(DType.BF16, 3, 6)))
                    .hasMessageContaining("expected F32");
            assertThatThrownBy(() -> Blockwise.matmulBackward(stream, x.slice(0, 3, 6), w, true, x))
                    .hasMessageContaining("overlaps");
        }
    }
}
