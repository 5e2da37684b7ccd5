package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.SplittableRandom;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.EdgeCasesMode;
import net.jqwik.api.Example;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.Tag;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Products with quantized matrices, scalar and vector, against double sums over dequantized weights. */
@Tag("lanes")
class ProductTest {
    private static final double EPS32 = 0x1p-23;

    private static Backend scalar;
    private static Backend cpu;
    private static Backend cpuAlone;

    @BeforeContainer
    static void open() {
        scalar = Backends.open(Backend.SCALAR);
        cpu = Backends.open(Backend.CPU, null, 3);
        cpuAlone = Backends.open(Backend.CPU, null, 1);
    }

    @AfterContainer
    static void close() {
        scalar.close();
        cpu.close();
        cpuAlone.close();
    }

    @Provide
    static Arbitrary<Integer> rows() {
        return Arbitraries.of(1, 2, 3, 4, 5, 7, 50, 101);
    }

    @Provide
    static Arbitrary<Integer> outs() {
        return Arbitraries.of(1, 2, 3, 5, 15, 31, 32, 33, 64, 70, 130);
    }

    @Provide
    static Arbitrary<Integer> ins() {
        return Arbitraries.of(1, 2, 7, 31, 32, 33, 63, 64, 65, 96, 128, 130, 192, 256, 320, 512, 515, 576, 832);
    }

    @Provide
    static Arbitrary<QuantConfig> configs() {
        return Arbitraries.of(QuantType.class).flatMap(type -> Arbitraries.of(32, 64, 64, 256, 1024)
                .flatMap(size -> Arbitraries.of(true, false).map(nested -> new QuantConfig(type, size, nested))));
    }

    @Provide
    static Arbitrary<DType> types() {
        return Arbitraries.of(DType.F32, DType.F32, DType.BF16, DType.F16);
    }

    @Property(tries = 250, edgeCases = EdgeCasesMode.NONE)
    void forward(@ForAll("rows") int m, @ForAll("outs") int out, @ForAll("ins") int in,
            @ForAll("configs") QuantConfig config, @ForAll("types") DType dtype, @ForAll long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        Tensor x = random(random, dtype, m, in);
        QuantizedTensor w = weight(random, config, out, in);
        double[] weights = dequantized(w, dtype);
        Tensor[] results = new Tensor[3];
        for (int b = 0; b < 3; b++) {
            results[b] = Golden.poisoned(dtype, m, out);
            try (Stream stream = backend(b).openStream()) {
                Blockwise.matmul(stream, x, w, results[b]);
            }
        }
        for (int i = 0; i < m; i++) {
            for (int o = 0; o < out; o++) {
                double sum = 0;
                double magnitude = 0;
                for (int k = 0; k < in; k++) {
                    double term = x.get((long) i * in + k) * weights[o * in + k];
                    sum += term;
                    magnitude += Math.abs(term);
                }
                check(results, (long) i * out + o, sum, in * EPS32 * magnitude);
            }
        }
        Golden.assertSame("one thread and three", results[2], results[1]);
    }

    /** Several matrices of one x, in one operation, give what each of them gives. */
    @Property(tries = 60, edgeCases = EdgeCasesMode.NONE)
    void severalMatrices(@ForAll("rows") int m, @ForAll("ins") int in, @ForAll("configs") QuantConfig config,
            @ForAll("types") DType dtype, @ForAll long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        Tensor x = random(random, dtype, m, in);
        int[] outs = {random.nextInt(1, 400), random.nextInt(1, 40), random.nextInt(1, 100)};
        QuantizedTensor[] w = new QuantizedTensor[outs.length];
        for (int i = 0; i < w.length; i++) {
            w[i] = weight(random, i == 1 ? QuantConfig.QLORA : config, outs[i], in);
        }
        for (int b = 0; b < 3; b++) {
            Tensor[] alone = new Tensor[w.length];
            Tensor[] together = new Tensor[w.length];
            try (Stream stream = backend(b).openStream()) {
                for (int i = 0; i < w.length; i++) {
                    alone[i] = Golden.poisoned(dtype, m, outs[i]);
                    together[i] = Golden.poisoned(dtype, m, outs[i]);
                    Blockwise.matmul(stream, x, w[i], alone[i]);
                }
                Blockwise.matmul(stream, x, w, together);
            }
            for (int i = 0; i < w.length; i++) {
                Golden.assertSame("alone and together", alone[i], together[i]);
            }
        }
    }

    @Property(tries = 250, edgeCases = EdgeCasesMode.NONE)
    void backward(@ForAll("rows") int m, @ForAll("outs") int out, @ForAll("ins") int in,
            @ForAll("configs") QuantConfig config, @ForAll("types") DType dtype, @ForAll boolean accumulate,
            @ForAll long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        Tensor dy = random(random, dtype, m, out);
        Tensor before = random(random, dtype, m, in);
        QuantizedTensor w = weight(random, config, out, in);
        double[] weights = dequantized(w, dtype);
        Tensor[] results = new Tensor[3];
        for (int b = 0; b < 3; b++) {
            results[b] = Golden.poisoned(dtype, m, in);
            if (accumulate) {
                results[b].copyFrom(before);
            }
            try (Stream stream = backend(b).openStream()) {
                Blockwise.matmulBackward(stream, dy, w, accumulate, results[b]);
            }
        }
        for (int i = 0; i < m; i++) {
            for (int k = 0; k < in; k++) {
                double sum = accumulate ? before.get((long) i * in + k) : 0;
                double magnitude = Math.abs(sum);
                for (int o = 0; o < out; o++) {
                    double term = dy.get((long) i * out + o) * weights[o * in + k];
                    sum += term;
                    magnitude += Math.abs(term);
                }
                check(results, (long) i * in + k, sum, (out + (accumulate ? 1 : 0)) * EPS32 * magnitude);
            }
        }
        Golden.assertSame("one thread and three", results[2], results[1]);
    }

    /** The stated bound of a float32 sum, and half an ulp of the result's own type. */
    private static void check(Tensor[] results, long i, double expected, double bound) {
        double rounding = switch (results[0].dtype()) {
            case BF16 -> 0x1p-8;
            case F16 -> 0x1p-11;
            default -> 0x1p-24;
        };
        // float16 is subnormal below 2^-14, with steps of 2^-24.
        double smallest = results[0].dtype() == DType.F16 ? 0x1p-25 : Float.MIN_VALUE;
        double limit = bound + rounding * (Math.abs(expected) + bound) + smallest;
        for (Tensor y : results) {
            assertThat(Math.abs(y.get(i) - expected)).as("element %d of %s", i, y).isLessThanOrEqualTo(limit);
        }
    }

    private static Backend backend(int b) {
        return b == 0 ? scalar : b == 1 ? cpu : cpuAlone;
    }

    private static Tensor random(SplittableRandom random, DType dtype, long... shape) {
        Tensor t = Tensor.zeros(dtype, shape);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, random.nextGaussian());
        }
        return t;
    }

    private static QuantizedTensor weight(SplittableRandom random, QuantConfig config, int out, int in) {
        Tensor w = random(random, DType.F32, out, in);
        QuantizedTensor q = Golden.poisoned(config, DType.F32, out, in);
        try (Stream stream = scalar.openStream()) {
            Blockwise.quantize(stream, w, q);
        }
        return q;
    }

    private static double[] dequantized(QuantizedTensor w, DType compute) {
        Tensor t = Golden.poisoned(compute, w.shape());
        try (Stream stream = scalar.openStream()) {
            Blockwise.dequantize(stream, w, t);
        }
        double[] values = new double[Math.toIntExact(t.size())];
        for (int i = 0; i < values.length; i++) {
            values[i] = t.get(i);
        }
        return values;
    }

    /** A NaN of all payload bits would become zero if rounding to 16 bits carried into its sign. */
    @Example
    void aConstantThatIsNoNumberShowsInItsRowAlone() {
        SplittableRandom random = new SplittableRandom(2);
        QuantizedTensor w = weight(random, new QuantConfig(QuantType.NF4, 64, false), 3, 128);
        w.absmax().data().set(Elements.INT, 2 * Float.BYTES, Integer.MAX_VALUE);
        for (DType dtype : new DType[]{DType.F32, DType.BF16, DType.F16}) {
            for (int m : new int[]{1, 5}) {
                Tensor x = random(random, dtype, m, 128);
                for (int b = 0; b < 3; b++) {
                    Tensor y = Golden.poisoned(dtype, m, 3);
                    try (Stream stream = backend(b).openStream()) {
                        Blockwise.matmul(stream, x, w, y);
                    }
                    for (int i = 0; i < m; i++) {
                        assertThat(y.get(3L * i)).isFinite();
                        assertThat(y.get(3L * i + 1)).isNaN();
                        assertThat(y.get(3L * i + 2)).isFinite();
                    }
                }
            }
        }
    }

    /** In float64 the scalar product is the double sum itself: what finite differences rely on. */
    @Example
    void scalarTakesFloat64() {
        SplittableRandom random = new SplittableRandom(1);
        QuantizedTensor w = weight(random, QuantConfig.QLORA, 5, 64);
        Tensor x = random(random, DType.F64, 1, 64);
        Tensor y = Golden.poisoned(DType.F64, 1, 5);
        try (Stream stream = scalar.openStream()) {
            Blockwise.matmul(stream, x, w, y);
        }
        double[] weights = dequantized(w, DType.F64);
        for (int o = 0; o < 5; o++) {
            double sum = 0;
            for (int k = 0; k < 64; k++) {
                sum += x.get(k) * weights[o * 64 + k];
            }
            assertThat(y.get(o)).isEqualTo(sum);
        }
        try (Stream stream = cpu.openStream()) {
            assertThatThrownBy(() -> Blockwise.matmul(stream, x, w, y)).hasMessageContaining("float64");
        }
    }
}
