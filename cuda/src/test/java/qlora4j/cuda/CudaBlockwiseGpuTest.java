package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.BlockwiseKernels;
import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Quantization gives the scalar backend's bits and products keep the contract's bound, at fresh random sizes, types and
 * values: NaN, infinities, zeros, blocks too small for a reciprocal, odd tails, every block size.
 */
@Tag("gpu")
class CudaBlockwiseGpuTest {
    private static final Twins TWINS = new Twins();
    private static final int TRIES = 60;
    private static final DType[] TYPES = {DType.F32, DType.BF16, DType.F16, DType.F64};
    private static final int[] SIZES = {1, 2, 7, 31, 33, 64, 100, 4095, 4097, 33_000, 65_537};
    private static final double[] SCALES = {1, 1e-3, 3e37, 1e-38, 1e-44, 0};
    /** Of each of the codebook's values, what rounding it to float16 (11 bits) changes at most. */
    private static final double CODES_ROUNDING = 0x1p-11;
    private static final double[] SPECIAL = {0, -0.0, Float.MIN_VALUE, -Float.MIN_NORMAL, 1e-40, Float.MAX_VALUE,
            Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY, Double.NaN};

    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private int any(int... values) {
        return values[random.nextInt(values.length)];
    }

    private Tensor values(DType type, int n) {
        Tensor x = Tensor.zeros(type, n);
        double scale = SCALES[random.nextInt(SCALES.length)];
        for (int i = 0; i < n; i++) {
            x.set(i, scale * random.nextGaussian());
        }
        for (int s = random.nextInt(8) - 3; s > 0; s--) {
            x.set(random.nextInt(n), SPECIAL[random.nextInt(SPECIAL.length)]);
        }
        return x;
    }

    private static QuantizedTensor poisoned(Twins.Run run, QuantConfig config, long... shape) {
        long n = Tensor.elements(shape);
        return new QuantizedTensor(config, DType.F32, shape, run.out(DType.U8, (n + 1) / 2),
                run.out(config.nested() ? DType.U8 : DType.F32, config.blocks(n)),
                config.nested() ? run.out(DType.F32, config.nestedBlocks(n)) : null,
                config.nested() ? run.out(DType.F32, 1) : null);
    }

    @ParameterizedTest
    @EnumSource(QuantType.class)
    void fourBits(QuantType type) {
        for (int i = 0; i < TRIES; i++) {
            QuantConfig config = new QuantConfig(type, 32 << random.nextInt(8), random.nextBoolean());
            Tensor x = values(TYPES[i % TYPES.length], any(SIZES));
            DType out = TYPES[random.nextInt(TYPES.length)];
            TWINS.identical(run -> {
                QuantizedTensor w = poisoned(run, config, x.size());
                Tensor back = run.out(out, x.size());
                Blockwise.quantize(run.s, run.in(x), w);
                Blockwise.dequantize(run.s, w, back);
                return config.nested()
                        ? new Tensor[]{w.packed(), w.absmax(), w.absmax2(), w.offset(), back}
                        : new Tensor[]{w.packed(), w.absmax(), back};
            });
        }
    }

    @ParameterizedTest
    @EnumSource(DynamicMap.class)
    void eightBits(DynamicMap map) {
        for (int i = 0; i < TRIES; i++) {
            int blocksize = 32 << random.nextInt(8);
            Tensor x = values(TYPES[i % TYPES.length], any(SIZES));
            long blocks = Math.ceilDiv(x.size(), blocksize);
            Tensor offset = random.nextBoolean() ? Tensor.of(new float[]{0.25f}, 1) : null;
            DType out = TYPES[random.nextInt(TYPES.length)];
            TWINS.identical(run -> {
                Tensor shift = offset == null ? null : run.in(offset);
                Tensor codes = run.out(DType.U8, x.size());
                Tensor absmax = run.out(DType.F32, blocks);
                Tensor back = run.out(out, x.size());
                Blockwise.quantize8(run.s, run.in(x), shift, map, blocksize, codes, absmax);
                Blockwise.dequantize8(run.s, codes, absmax, shift, map, blocksize, back);
                return new Tensor[]{codes, absmax, back};
            });
        }
    }

    /** Numbers of one magnitude, whose sum does not round, and of many, whose sum depends on its order. */
    @Test
    void meanInOrder() {
        for (int n : new int[]{0, 1, 255, 256, 257, 5000, 300_001}) {
            for (boolean wide : new boolean[]{false, true}) {
                Tensor x = Tensor.zeros(DType.F32, n);
                for (int i = 0; i < n; i++) {
                    x.set(i, wide ? Math.scalb(random.nextGaussian(), random.nextInt(120) - 60) : random.nextDouble());
                }
                TWINS.identical(run -> {
                    Tensor mean = run.out(DType.F32, 1);
                    run.s.kernels(BlockwiseKernels.class).mean(run.s, run.in(x), mean);
                    return new Tensor[]{mean};
                });
            }
        }
    }

    /** Every way a product can take: few rows, up to 64, many; columns that lanes can share or not; all types. */
    @Test
    void products() {
        DType[] types = {DType.F32, DType.BF16, DType.BF16, DType.BF16, DType.F16};
        for (int i = 0; i < TRIES; i++) {
            DType type = types[i % types.length];
            int m = any(1, 2, 5, 8, 9, 16, 17, 32, 33, 64, 65, 101);
            int in = any(1, 7, 32, 64, 65, 96, 160, 224, 256, 320, 512, 576, 1056, 2080);
            int out = any(1, 2, 15, 16, 33, 64, 128, 130, 200);
            QuantConfig config = new QuantConfig(QuantType.values()[random.nextInt(2)], any(32, 64, 64, 256, 1024),
                    random.nextBoolean());
            boolean accumulate = random.nextBoolean();
            Tensor w = Gpu.normal(random, DType.F32, out, in);
            Tensor x = Gpu.normal(random, type, m, in);
            Tensor dy = Gpu.normal(random, type, m, out);
            Tensor before = Gpu.normal(random, type, m, in);
            within(run -> {
                QuantizedTensor q = poisoned(run, config, out, in);
                Blockwise.quantize(run.s, run.in(w), q);
                Tensor y = run.out(type, m, out);
                Blockwise.matmul(run.s, run.in(x), q, y);
                return new Tensor[]{y};
            }, magnitudes(config, w, x, false, null), in, rounding(type, m));
            within(run -> {
                QuantizedTensor q = poisoned(run, config, out, in);
                Blockwise.quantize(run.s, run.in(w), q);
                Tensor dx = accumulate ? run.in(before) : run.out(type, m, in);
                Blockwise.matmulBackward(run.s, run.in(dy), q, accumulate, dx);
                return new Tensor[]{dx};
            }, magnitudes(config, w, dy, true, accumulate ? before : null), out + 1, 0);
        }
    }

    /** Few rows in bfloat16 do not round W, which the scalar backend does: to 8 bits. */
    private static double rounding(DType type, int m) {
        return type == DType.BF16 && m <= CudaSmallm.ROWS ? 0x1p-8 + CODES_ROUNDING : 0;
    }

    /**
     * Few rows: constants are multiplied with sums, in float32, so that of W only the codebook is rounded, to float16. x of
     * any magnitude is brought to float16 and back, rows of zeros too. Compared with products in float64 of what the scalar
     * backend dequantizes. More than 8 rows only as QLoRA quantizes, and on
     * compute capability 9.0.
     */
    @Test
    void fewRowsDoNotRoundWeights() {
        boolean more = TWINS.cuda.modules().hopper("smallm_hopper");
        for (int i = 0; i < 2 * TRIES; i++) {
            int m = more && i % 2 == 1 ? any(9, 15, 16, 17, 32, 33, 63, 64) : any(1, 1, 2, 3, 8);
            int in = any(256, 512, 2304, 4096);
            int out = m > 8 ? any(4, 60, 128, 132, 1000) : any(1, 15, 16, 33, 200, 2500);
            QuantConfig config = m > 8 || random.nextBoolean()
                    ? new QuantConfig(QuantType.values()[random.nextInt(2)], 64, true)
                    : new QuantConfig(QuantType.values()[random.nextInt(2)], any(64, 64, 128, 256, 4096),
                            random.nextBoolean());
            weightsAreNotRounded(config, m, out, in);
        }
    }

    /** Tiles of rows so few that multiprocessors without one help, some with one tile and some with two, or with three. */
    @ParameterizedTest
    @ValueSource(ints = {33, 64})
    void multiprocessorsWithoutRowsHelp(int m) {
        assumeTrue(TWINS.cuda.modules().hopper("smallm_hopper"), "compute capability 9.0 is not there");
        int multiprocessors = TWINS.cuda.context().multiprocessors();
        int tiles = m == 64 ? multiprocessors - 40 : multiprocessors / 2 + 3;
        int in = m == 64 ? 1280 : 1024;
        assertThat(CudaSmallm.divide(64, tiles * 128, in, multiprocessors).helpers())
                .isEqualTo(multiprocessors - tiles);
        weightsAreNotRounded(new QuantConfig(QuantType.NF4, 64, true), m, tiles * 128, in);
    }

    /** Beside float64. Other rows are multiplied before, whose sums must not be taken for these. */
    private void weightsAreNotRounded(QuantConfig config, int m, int out, int in) {
        Tensor w = Gpu.normal(random, DType.F32, out, in);
        Tensor x = Gpu.normal(random, DType.BF16, m, in);
        Tensor before = Gpu.normal(random, DType.BF16, m, in);
        for (int row = 0; row < m; row++) {
            double scale = any(0, 1, 1, 1000) * Math.scalb(1, any(-100, -20, 0, 20, 90));
            for (int k = 0; k < in; k++) {
                // Some elements are far smaller than the others.
                x.set((long) row * in + k, scale * x.get((long) row * in + k) * (k % 7 == 0 ? 0x1p-20 : 1));
            }
        }
        Tensor y = TWINS.onGpu(run -> {
            QuantizedTensor q = poisoned(run, config, out, in);
            Blockwise.quantize(run.s, run.in(w), q);
            Tensor product = run.out(DType.BF16, m, out);
            Blockwise.matmul(run.s, run.in(before), q, product);
            Blockwise.matmul(run.s, run.in(x), q, product);
            return new Tensor[]{product};
        })[0];
        double[] weights = values(dequantized(config, w));
        double[] rows = values(x);
        double[][] exact = IntStream.range(0, m * out).parallel()
                .mapToObj(k -> dot(rows, k / out * in, weights, k % out * in, in)).toArray(double[][]::new);
        for (int k = 0; k < m * out; k++) {
            double expected = exact[k][0];
            double actual = y.get(k);
            double bound = (CODES_ROUNDING + in * Twins.EPSILON) * exact[k][1];
            assertThat(Math.abs(actual - expected)).as("m %d, in %d, %s, element %d: %s and %s", m, in, config, k,
                    actual, expected)
                    .isLessThanOrEqualTo(bound + 0x1p-8 * (Math.abs(expected) + bound) + 0x1p-133);
        }
    }

    /** A row's last block is infinite: the row's results are, and no column beyond it makes them NaN. */
    @ParameterizedTest
    @ValueSource(ints = {1, 8, 9, 17, 40, 64, 65})
    void infiniteConstant(int m) {
        int out = 130;
        for (int in : new int[]{32, 288, 480, 512, 1056}) {
            QuantConfig config = new QuantConfig(QuantType.NF4, 32, false);
            int infinite = random.nextInt(out);
            Tensor packed = Tensor.zeros(DType.U8, (long) out * in / 2);
            Tensor absmax = Tensor.zeros(DType.F32, (long) out * in / 32);
            for (int i = 0; i < absmax.size(); i++) {
                absmax.set(i, i == (infinite + 1) * (in / 32) - 1 ? Double.POSITIVE_INFINITY : 1 + random.nextInt(3));
                for (int b = 0; b < 16; b++) {
                    packed.set(16L * i + b, absmax.get(i) > 3 ? 0xff : random.nextInt(256));
                }
            }
            Tensor x = Products64.magnitude(Gpu.normal(random, DType.F32, m, in));
            Tensor rows = Tensor.zeros(DType.BF16, m, in).copyFrom(x);
            for (long i = 0; i < rows.size(); i++) {
                rows.set(i, rows.get(i) + 0.5);
            }
            Tensor[][] both = TWINS.run(run -> {
                QuantizedTensor w = new QuantizedTensor(config, DType.F32, new long[]{out, in}, run.in(packed),
                        run.in(absmax), null, null);
                Tensor y = run.out(DType.BF16, m, out);
                Blockwise.matmul(run.s, run.in(rows), w, y);
                return new Tensor[]{y};
            });
            for (int i = 0; i < m * out; i++) {
                double expected = both[0][0].get(i);
                assertThat(Double.isInfinite(expected)).isEqualTo(i % out == infinite);
                double bound = 0.01 * Math.abs(expected) + 1e-4 * in;
                double actual = both[1][0].get(i);
                assertThat(actual == expected || Math.abs(actual - expected) <= bound && Double.isFinite(expected))
                        .as("m %d, in %d, element %d: %s and %s", m, in, i, actual, expected).isTrue();
            }
        }
    }

    /** W after quantization, by the scalar backend, in float64. */
    private static Tensor dequantized(QuantConfig config, Tensor w) {
        return TWINS.onScalar(run -> {
            QuantizedTensor q = poisoned(run, config, w.shape());
            Tensor dense = run.out(DType.F64, w.shape());
            Blockwise.quantize(run.s, w, q);
            Blockwise.dequantize(run.s, q, dense);
            return new Tensor[]{dense};
        })[0];
    }

    private static double[] values(Tensor t) {
        return IntStream.range(0, Math.toIntExact(t.size())).parallel().mapToDouble(t::get).toArray();
    }

    /** The sum of n products, and of their magnitudes. */
    private static double[] dot(double[] a, int fromA, double[] b, int fromB, int n) {
        double sum = 0;
        double magnitude = 0;
        for (int i = 0; i < n; i++) {
            double product = a[fromA + i] * b[fromB + i];
            sum += product;
            magnitude += Math.abs(product);
        }
        return new double[]{sum, magnitude};
    }

    /** The sums of magnitudes that the contract's bound is made of, by the scalar backend. */
    private static Tensor magnitudes(QuantConfig config, Tensor w, Tensor x, boolean backward, Tensor before) {
        try (qlora4j.tensor.Stream s = TWINS.scalar.openStream()) {
            Tensor dense = dequantized(config, w);
            Tensor sums = Tensor.zeros(DType.F64, x.rows(), backward ? w.cols() : w.rows());
            if (before != null) {
                sums.copyFrom(Products64.magnitude(before));
            }
            if (backward) {
                qlora4j.tensor.Matmul.nn(s, Products64.magnitude(x), Products64.magnitude(dense), 1, sums, true);
            } else {
                qlora4j.tensor.Matmul.nt(s, Products64.magnitude(x), Products64.magnitude(dense), 1, sums, true);
            }
            return sums;
        }
    }

    private static void within(Twins.Operation operation, Tensor magnitude, int terms, double rounding) {
        Tensor[][] both = TWINS.run(operation);
        Products64.within(both[0][0], both[1][0], magnitude, terms * Twins.EPSILON + rounding);
    }
}
