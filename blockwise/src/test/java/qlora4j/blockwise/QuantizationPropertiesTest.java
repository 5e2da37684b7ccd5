package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.Random;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import qlora4j.nf4.Codebook;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * What holds of every tensor, blocksize and codebook, on the scalar backend (the others are compared with it bit for
 * bit). Magnitudes stay clear of overflow and of subnormal numbers, which have tests of their own.
 */
class QuantizationPropertiesTest {
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    /** A rounded reciprocal, a product, a threshold that is a rounded midpoint, and the product on the way back. */
    private static final double ROUNDING = 4 * Math.ulp(1f);

    /** NF4's error over that of the best 16 values, as measured on 2^20 numbers. */
    private static final double GAP = 1.11;

    /** A quantized tensor and what it stands for. */
    private record Quantized(int[] codes, float[] absmax, float[] values) {
    }

    @Provide
    static Arbitrary<float[]> values() {
        Arbitrary<Float> element = Arbitraries.oneOf(Arbitraries.floats().between(-1, 1).ofScale(7),
                Arbitraries.floats().between(-1000, 1000), Arbitraries.just(0f))
                .map(x -> Math.abs(x) < 1e-6f ? 0 : x);
        return element.array(float[].class).ofMinSize(1).ofMaxSize(600);
    }

    @Provide
    static Arbitrary<Integer> blocksizes() {
        return Arbitraries.integers().between(5, 9).map(log -> 1 << log);
    }

    private static Quantized quantize(float[] x, QuantType type, int blocksize) {
        try (Stream s = SCALAR.openStream()) {
            QuantizedTensor w = Blockwise.quantize(s, Tensor.of(x, x.length), new QuantConfig(type, blocksize, false));
            Tensor out = Tensor.zeros(DType.F32, x.length);
            Blockwise.dequantize(s, w, out);
            int[] codes = new int[x.length];
            for (int i = 0; i < x.length; i++) {
                int pair = (int) w.packed().get(i / 2);
                codes[i] = i % 2 == 0 ? pair >>> 4 : pair & 0xf;
            }
            return new Quantized(codes, w.absmax().toFloats(), out.toFloats());
        }
    }

    private static Quantized quantize8(float[] x, DynamicMap map, int blocksize) {
        try (Stream s = SCALAR.openStream()) {
            Tensor codes = Tensor.zeros(DType.U8, x.length);
            Tensor absmax = Tensor.zeros(DType.F32, QuantConfig.blocks(x.length, blocksize));
            Tensor out = Tensor.zeros(DType.F32, x.length);
            Blockwise.quantize8(s, Tensor.of(x, x.length), null, map, blocksize, codes, absmax);
            Blockwise.dequantize8(s, codes, absmax, null, map, blocksize, out);
            return new Quantized(codes.toInts(), absmax.toFloats(), out.toFloats());
        }
    }

    /** The largest distance of a number in [low, 1] from the nearest of ascending values. */
    private static double halfGap(float[] values, double low) {
        float[] v = values.clone();
        Arrays.sort(v);
        double worst = Math.max(v[0] - low, 1.0 - v[v.length - 1]);
        for (int i = 1; i < v.length; i++) {
            worst = Math.max(worst, ((double) v[i] - v[i - 1]) / 2);
        }
        return worst;
    }

    @Property(tries = 200)
    void errorsAreAtMostHalfTheGapAroundTheCode(@ForAll("values") float[] x, @ForAll QuantType type,
            @ForAll("blocksizes") int blocksize) {
        Quantized q = quantize(x, type, blocksize);
        float[] sorted = type.codebook().values();
        Arrays.sort(sorted);
        double widest = halfGap(sorted, -1);
        for (int i = 0; i < x.length; i++) {
            double absmax = q.absmax[i / blocksize];
            float value = type.codebook().value(q.codes[i]);
            int at = Arrays.binarySearch(sorted, value);
            double below = at == 0 ? 0 : (double) value - sorted[at - 1];
            double above = at == sorted.length - 1 ? 0 : (double) sorted[at + 1] - value;
            double error = x[i] - (double) q.values[i];
            assertThat(Math.abs(error)).as("element %d, widest gap", i)
                    .isLessThanOrEqualTo((widest + ROUNDING) * absmax);
            assertThat(error).as("element %d, code %d", i, q.codes[i])
                    .isBetween(-(below / 2 + ROUNDING) * absmax, (above / 2 + ROUNDING) * absmax);
        }
    }

    @Property(tries = 200)
    void theLargestMagnitudeIsKeptAndTwiceIsAsOnce(@ForAll("values") float[] x, @ForAll QuantType type,
            @ForAll("blocksizes") int blocksize) {
        Quantized once = quantize(x, type, blocksize);
        Quantized twice = quantize(once.values, type, blocksize);
        for (int i = 0; i < x.length; i++) {
            if (Math.abs(x[i]) == once.absmax[i / blocksize]) {
                assertThat(once.values[i]).as("element %d", i).isEqualTo(x[i]);
            }
        }
        assertThat(twice.absmax).isEqualTo(once.absmax);
        for (int i = 0; i < x.length; i++) {
            // FP4's -0 is a zero when it is quantized again, and comes back as +0.
            assertThat(twice.values[i] + 0f).as("element %d", i).isEqualTo(once.values[i] + 0f);
        }
    }

    /** The signed 8-bit map holds 1 but not -1: only where the largest magnitude is positive. */
    @Property(tries = 200)
    void theSame8BitsWhereTheLargestIsPositive(@ForAll("values") float[] x, @ForAll("blocksizes") int blocksize) {
        float[] y = x.clone();
        for (int from = 0; from < y.length; from += blocksize) {
            float largest = 0;
            for (int i = from; i < Math.min(y.length, from + blocksize); i++) {
                largest = Math.max(largest, Math.abs(y[i]));
            }
            y[from] = largest;
        }
        Quantized once = quantize8(y, DynamicMap.SIGNED, blocksize);
        Quantized twice = quantize8(once.values, DynamicMap.SIGNED, blocksize);
        assertThat(twice.absmax).isEqualTo(once.absmax);
        assertThat(twice.codes).isEqualTo(once.codes);
    }

    @Property(tries = 200)
    void powersOfTwoScaleTheConstantsAlone(@ForAll("values") float[] x, @ForAll QuantType type,
            @ForAll("blocksizes") int blocksize, @ForAll @IntRange(min = -60, max = 60) int exponent) {
        float factor = Math.scalb(1f, exponent);
        float[] scaled = x.clone();
        for (int i = 0; i < x.length; i++) {
            scaled[i] *= factor;
        }
        Quantized a = quantize(x, type, blocksize);
        Quantized b = quantize(scaled, type, blocksize);
        assertThat(b.codes).isEqualTo(a.codes);
        for (int i = 0; i < a.absmax.length; i++) {
            assertThat(b.absmax[i]).isEqualTo(a.absmax[i] * factor);
        }
    }

    /** FP4 is symmetric; NF4 is not: its negative half has seven values, its positive half eight. */
    @Property(tries = 200)
    void fp4OfTheNegativeIsTheNegative(@ForAll("values") float[] x, @ForAll("blocksizes") int blocksize) {
        float[] negative = new float[x.length];
        for (int i = 0; i < x.length; i++) {
            negative[i] = -x[i];
        }
        Quantized a = quantize(x, QuantType.FP4, blocksize);
        Quantized b = quantize(negative, QuantType.FP4, blocksize);
        for (int i = 0; i < x.length; i++) {
            assertThat(b.values[i] + a.values[i]).as("element %d", i).isZero();
        }
    }

    @Property(tries = 200)
    void orderInABlockIsKeptAndPlacesDoNotMatter(@ForAll("values") float[] x, @ForAll QuantType type,
            @ForAll("blocksizes") int blocksize) {
        Quantized q = quantize(x, type, blocksize);
        float[] sorted = x.clone();
        for (int from = 0; from < x.length; from += blocksize) {
            Arrays.sort(sorted, from, Math.min(x.length, from + blocksize));
        }
        Quantized s = quantize(sorted, type, blocksize);
        for (int from = 0; from < x.length; from += blocksize) {
            int to = Math.min(x.length, from + blocksize);
            float[] values = Arrays.copyOfRange(q.values, from, to);
            // Zeros of either sign are one value here.
            for (int i = 0; i < values.length; i++) {
                values[i] += 0f;
                assertThat(i == 0 || s.values[from + i] >= s.values[from + i - 1]).as("ascending").isTrue();
            }
            Arrays.sort(values);
            for (int i = 0; i < values.length; i++) {
                assertThat(s.values[from + i]).as("the same values in another order").isEqualTo(values[i]);
            }
        }
    }

    /** A constant after both levels is off by the map's worst error times the second-level constant. */
    @Property(tries = 100)
    void doubleQuantizationIsBoundedByTheMap(@ForAll("values") float[] x) {
        float[] many = new float[x.length * 32];
        for (int i = 0; i < many.length; i++) {
            many[i] = x[i / 32] * ((i % 32 + 1) / 32f);
        }
        try (Stream s = SCALAR.openStream()) {
            QuantizedTensor plain = Blockwise.quantize(s, Tensor.of(many, many.length),
                    new QuantConfig(QuantType.NF4, 32, false));
            QuantizedTensor w = Blockwise.quantize(s, Tensor.of(many, many.length),
                    new QuantConfig(QuantType.NF4, 32, true));
            Tensor scales = Tensor.zeros(DType.F32, w.absmax().size());
            Blockwise.scales(s, w, scales);
            double worst = halfGap(DynamicMap.SIGNED.table(), -1);
            for (int i = 0; i < scales.size(); i++) {
                double absmax2 = w.absmax2().get(i / QuantConfig.NESTED_BLOCKSIZE);
                double exact = plain.absmax().get(i);
                double rounding = ROUNDING * (absmax2 + Math.abs(exact) + Math.abs(w.offset().get(0)));
                assertThat(Math.abs(scales.get(i) - exact)).as("constant %d", i)
                        .isLessThanOrEqualTo(worst * absmax2 + rounding);
            }
        }
    }

    /** Squared errors of blocks of 64 standard normal numbers. */
    private static double[] errors(float[] x, float[] values) {
        double[] blocks = new double[x.length / 64];
        for (int i = 0; i < x.length; i++) {
            double e = (double) x[i] - values[i];
            blocks[i / 64] += e * e / 64;
        }
        return blocks;
    }

    private static double mean(double[] v) {
        return Arrays.stream(v).average().orElseThrow();
    }

    private static double standardError(double[] v) {
        double mean = mean(v);
        return Math.sqrt(Arrays.stream(v).map(e -> (e - mean) * (e - mean)).sum() / (v.length - 1.0) / v.length);
    }

    private static float[] int4(float[] x) {
        float[] out = new float[x.length];
        for (int from = 0; from < x.length; from += 64) {
            float absmax = 0;
            for (int i = from; i < from + 64; i++) {
                absmax = Math.max(absmax, Math.abs(x[i]));
            }
            for (int i = from; i < from + 64; i++) {
                out[i] = (float) (Math.rint(x[i] / absmax * 7) / 7 * absmax);
            }
        }
        return out;
    }

    /**
     * The best 16 values for normal data in blocks of 64 (Lloyd 1982, Max 1960), by alternating nearest values and means
     * that are weighted with the squared constants; and the mean squared error with them.
     */
    private static double lloydMax(float[] x, float[] absmax) {
        int bins = 1 << 14;
        double[] weight = new double[bins];
        double[] first = new double[bins];
        double[] second = new double[bins];
        for (int i = 0; i < x.length; i++) {
            double a = absmax[i / 64];
            double n = x[i] / a;
            int bin = (int) Math.min(bins - 1, (n + 1) / 2 * bins);
            weight[bin] += a * a;
            first[bin] += a * a * n;
            second[bin] += a * a * n * n;
        }
        double[] values = new double[Codebook.SIZE];
        for (int k = 0; k < values.length; k++) {
            values[k] = Codebook.NF4.value(k);
        }
        double error = 0;
        for (int round = 0; round < 500; round++) {
            double[] w = new double[values.length];
            double[] sum = new double[values.length];
            error = 0;
            int k = 0;
            for (int bin = 0; bin < bins; bin++) {
                double middle = (bin + 0.5) / bins * 2 - 1;
                while (k + 1 < values.length && middle > (values[k] + values[k + 1]) / 2) {
                    k++;
                }
                w[k] += weight[bin];
                sum[k] += first[bin];
                error += second[bin] - 2 * values[k] * first[bin] + values[k] * values[k] * weight[bin];
            }
            for (int j = 0; j < values.length; j++) {
                values[j] = w[j] > 0 ? sum[j] / w[j] : values[j];
            }
        }
        return error / x.length;
    }

    /**
     * Mean squared errors on 2^20 standard normal numbers in blocks of 64. The seed is fixed; with any other each
     * comparison would fail with a probability below 6e-7 (five standard errors of the mean over 16,384 independent
     * blocks), beside the rounding of the figures themselves, which are given to four decimals.
     */
    @Test
    void normalDataPreferNf4ToInt4ToFp4() {
        Random random = new Random(64);
        float[] x = new float[1 << 20];
        for (int i = 0; i < x.length; i++) {
            x[i] = (float) random.nextGaussian();
        }
        Quantized q = quantize(x, QuantType.NF4, 64);
        double[] nf4 = errors(x, q.values);
        double[] int4 = errors(x, int4(x));
        double[] fp4 = errors(x, quantize(x, QuantType.FP4, 64).values);
        double lloyd = lloydMax(x, q.absmax);
        String measured =
                String.format("NF4 %.6f, int4 %.6f, FP4 %.6f, Lloyd-Max %.6f: NF4 is %.1f %% above it", mean(nf4),
                        mean(int4), mean(fp4), lloyd, 100 * (mean(nf4) / lloyd - 1));
        double[][] all = {nf4, int4, fp4};
        double[] published = {.0084, .0115, .0149};
        for (int i = 0; i < all.length; i++) {
            assertThat(mean(all[i])).as(measured).isBetween(published[i] - 5e-5 - 5 * standardError(all[i]),
                    published[i] + 5e-5 + 5 * standardError(all[i]));
        }
        for (int i = 1; i < all.length; i++) {
            double[] difference = new double[nf4.length];
            for (int b = 0; b < difference.length; b++) {
                difference[b] = all[i][b] - all[i - 1][b];
            }
            assertThat(mean(difference)).as(measured).isGreaterThan(5 * standardError(difference));
        }
        assertThat(mean(nf4) / lloyd).as(measured).isBetween(GAP - 0.01, GAP + 0.01);
    }

    @Property(tries = 50)
    void bitsAParameter(@ForAll("blocksizes") int blocksize, @ForAll boolean nested) {
        int n = blocksize * QuantConfig.NESTED_BLOCKSIZE;
        try (Stream s = SCALAR.openStream()) {
            QuantizedTensor w = Blockwise.quantize(s, Tensor.zeros(DType.F32, n).fill(1),
                    new QuantConfig(QuantType.NF4, blocksize, nested));
            double constants = nested ? 8.0 / blocksize + 32.0 / (blocksize * 256.0) + 32.0 / n : 32.0 / blocksize;
            assertThat(w.bitsPerParameter()).isEqualTo(4 + constants);
        }
    }
}
