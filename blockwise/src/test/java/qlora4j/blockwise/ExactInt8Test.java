package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.SplittableRandom;
import net.jqwik.api.Example;
import net.jqwik.api.Tag;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What fits 8 bits without loss is told from what does not; its product, scalar and vector, against double sums. */
@Tag("lanes")
class ExactInt8Test {
    private static final double EPS32 = 0x1p-23;

    /** Numbers as they come out of Q8_0: a float16 constant a block, whole numbers up to 127, one of them reached. */
    private static Tensor q8(int rows, int cols, SplittableRandom random) {
        Tensor w = Tensor.zeros(DType.F32, rows, cols);
        for (long block = 0; block < w.size() / ExactInt8.BLOCK; block++) {
            float scale = block % 7 == 3 ? 0
                    : Float.float16ToFloat(Float.floatToFloat16((float) random.nextDouble(1e-4, 1e-2)));
            int reached = random.nextInt(ExactInt8.BLOCK);
            for (int i = 0; i < ExactInt8.BLOCK; i++) {
                int code = i == reached ? random.nextBoolean() ? 127 : -127 : random.nextInt(-127, 128);
                w.set(block * ExactInt8.BLOCK + i, scale == 0 ? 0 : code * scale);
            }
        }
        return w;
    }

    @Example
    void productsAreThoseOfTheFloats() {
        SplittableRandom random = new SplittableRandom(5);
        try (Backend scalar = Backends.open(Backend.SCALAR);
                Backend cpu = Backends.open(Backend.CPU, null, 3);
                Backend alone = Backends.open(Backend.CPU, null, 1)) {
            for (int in : new int[]{64, 96, 128, 160, 576}) {
                for (int out : new int[]{1, 2, 3, 5, 63, 64, 66, 131}) {
                    for (int m : new int[]{1, 3}) {
                        Tensor w = q8(out, in, random);
                        Tensor x = Tensor.zeros(DType.F32, m, in);
                        for (long i = 0; i < x.size(); i++) {
                            x.set(i, random.nextDouble(-1, 1));
                        }
                        float[] expected = product(scalar, x, w);
                        float[] actual = product(cpu, x, w);
                        assertThat(product(alone, x, w)).isEqualTo(actual);
                        check(x, w, expected, actual);
                    }
                }
            }
        }
    }

    private static float[] product(Backend backend, Tensor x, Tensor w) {
        Tensor y = Tensor.zeros(DType.F32, x.rows(), w.rows());
        ExactInt8 held = ExactInt8.of(backend, w);
        assertThat(held).isNotNull();
        for (long i = 0; i < w.size(); i++) {
            double value = held.codes().get(i) * held.scales().get(i / ExactInt8.BLOCK);
            assertThat((float) value).isEqualTo((float) w.get(i));
        }
        try (Stream s = backend.openStream()) {
            s.kernels(ExactInt8Kernels.class).matmul(s, x, held, y);
        }
        return y.toFloats();
    }

    /** Both against sums in double, with the bound of {@link ExactInt8Kernels#matmul}. */
    private static void check(Tensor x, Tensor w, float[] scalar, float[] vector) {
        int in = w.cols();
        for (int m = 0; m < x.rows(); m++) {
            for (int o = 0; o < w.rows(); o++) {
                double sum = 0;
                double magnitude = 0;
                for (int i = 0; i < in; i++) {
                    double term = x.get((long) m * in + i) * w.get((long) o * in + i);
                    sum += term;
                    magnitude += Math.abs(term);
                }
                int at = m * w.rows() + o;
                double bound = (in + in / ExactInt8.BLOCK) * EPS32 * magnitude;
                assertThat(Math.abs(vector[at] - sum) <= bound).as("%s, %s", x, w).isTrue();
                assertThat(Math.abs(scalar[at] - sum) <= EPS32 * magnitude).isTrue();
            }
        }
    }

    @Example
    void whatLosesSomethingStaysAsItIs() {
        SplittableRandom random = new SplittableRandom(6);
        try (Backend cpu = Backends.open(Backend.CPU, null, 1)) {
            for (float wrong : new float[]{0.1234567f, Float.NaN, Float.POSITIVE_INFINITY, -0f, Float.MIN_VALUE}) {
                for (long at : new long[]{0, 40, 7 * 64 - 1}) {
                    Tensor w = q8(7, 64, random);
                    assertThat(ExactInt8.of(cpu, w)).isNotNull();
                    w.set(at, wrong);
                    assertThat(ExactInt8.of(cpu, w)).as("%s at %s", wrong, at).isNull();
                }
            }
            assertThat(ExactInt8.of(cpu, Tensor.zeros(DType.F32, 4, 65))).isNull();
            assertThat(ExactInt8.of(cpu, Tensor.zeros(DType.F32, 4, 32))).isNull();
            assertThat(ExactInt8.of(cpu, Tensor.zeros(DType.BF16, 4, 64))).isNull();
        }
    }
}
