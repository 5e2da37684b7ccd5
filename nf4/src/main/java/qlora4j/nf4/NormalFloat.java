package qlora4j.nf4;

import java.util.Arrays;
import org.apache.commons.statistics.distribution.NormalDistribution;

/**
 * The NormalFloat data type: values at evenly spaced quantiles of the standard normal distribution, scaled into -1..1,
 * with an exact zero (QLoRA, arXiv:2305.14314, section 3, "4-bit NormalFloat Quantization").
 *
 * <p>The tails are asymmetric: with {@code h = 2^(bits-1)} there are {@code h} positive values and {@code h - 1}
 * negative ones. Their probabilities run evenly from {@link #OFFSET} towards 1/2, which itself (the quantile 0) is
 * counted once. To reproduce the published table exactly, probabilities are spaced in float32, quantiles taken in
 * double and narrowed to float32, and the division by the largest is in float32.
 */
public final class NormalFloat {
    /**
     * The probability of the outermost values: the mean of 1 - 1/30 and 1 - 1/32, as published to seven digits, so
     * that both tails have half a step of probability beyond them.
     */
    public static final double OFFSET = 0.9677083;

    private NormalFloat() {
    }

    /**
     * The {@code 2^bits} values, ascending, from -1 to 1.
     *
     * @param bits 2 to 8
     */
    public static float[] values(int bits) {
        if (bits < 2 || bits > 8) {
            throw new IllegalArgumentException("NormalFloat of " + bits + " bits: expected 2 to 8");
        }
        int half = 1 << (bits - 1);
        float[] positive = tail(half);
        float[] negative = tail(half - 1);
        float[] values = new float[2 * half];
        for (int i = 0; i < negative.length; i++) {
            values[i] = -negative[i];
        }
        System.arraycopy(positive, 0, values, half, half);
        Arrays.sort(values);
        float largest = values[values.length - 1];
        for (int i = 0; i < values.length; i++) {
            values[i] = values[i] / largest;
        }
        return values;
    }

    /** Quantiles of {@code count} probabilities from {@link #OFFSET} down to, but without, 1/2. */
    private static float[] tail(int count) {
        NormalDistribution normal = NormalDistribution.of(0, 1);
        float[] quantiles = new float[count];
        for (int i = 0; i < count; i++) {
            quantiles[i] = (float) normal.inverseCumulativeProbability(linspace((float) OFFSET, 0.5f, count + 1, i));
        }
        return quantiles;
    }

    /** Point {@code i} of {@code count} evenly spaced float32 numbers, counted from the nearer end, rounded once. */
    private static float linspace(float start, float end, int count, int i) {
        float step = (end - start) / (count - 1);
        return i < count / 2 ? Math.fma(step, i, start) : Math.fma(-step, count - 1 - i, end);
    }
}
