package qlora4j.blockwise;

import java.util.Arrays;

/**
 * The 256 values of an 8-bit dynamic data type (8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, section
 * 1.3): a run of leading zero bits chooses a power of ten, the bits behind it a fraction between 0.1 and 1. Values are
 * ascending, so a code is a rank.
 *
 * <p>As in bitsandbytes' {@code create_dynamic_map}: for exponent {@code i} of 0 to 6, the fractions are the means of
 * neighbours of {@code 2^i + 1} (unsigned: {@code 2^(i+1) + 1}) evenly spaced points from 0.1 to 1, scaled by
 * {@code 10^(i-6)}; then 0 and 1. All arithmetic is in float32, a point being one fused multiply-add.
 */
public enum DynamicMap {
    SIGNED, UNSIGNED;

    /** Number of codes. */
    public static final int SIZE = 256;

    private static final int EXPONENTS = 7;

    private final float[] values;
    private final float[] thresholds;

    DynamicMap() {
        values = build(ordinal() == 0);
        thresholds = new float[SIZE - 1];
        for (int i = 0; i < thresholds.length; i++) {
            thresholds[i] = (values[i] + values[i + 1]) * 0.5f;
        }
    }

    private static float[] build(boolean signed) {
        float[] values = new float[SIZE];
        int n = 0;
        for (int i = 0; i < EXPONENTS; i++) {
            int points = (1 << (signed ? i : i + 1)) + 1;
            float scale = (float) (1 / Math.pow(10, EXPONENTS - 1 - i));
            for (int p = 0; p < points - 1; p++) {
                float value = scale * ((linspace(points, p) + linspace(points, p + 1)) / 2);
                values[n++] = value;
                if (signed) {
                    values[n++] = -value;
                }
            }
        }
        values[n++] = 0;
        values[n++] = 1;
        Arrays.sort(values, 0, n);
        return values;
    }

    /** Point {@code i} of {@code points} from 0.1 to 1, counted from the nearer end, rounded once (as in PyTorch). */
    private static float linspace(int points, int i) {
        float step = (1f - 0.1f) / (points - 1);
        return i < points / 2 ? Math.fma(step, i, 0.1f) : Math.fma(-step, points - 1 - i, 1f);
    }

    /** The value of a code, 0 to 255. */
    public float value(int code) {
        return values[code];
    }

    /** A copy of the values in the order of their codes. */
    public float[] table() {
        return values.clone();
    }

    /** A copy of the 255 midpoints between neighbours, {@code (a + b) * 0.5f} in float32. */
    public float[] thresholds() {
        return thresholds.clone();
    }

    /**
     * The code of the value nearest to {@code x}: the number of midpoints that {@code x} strictly exceeds, so a tie
     * goes to the lower value. A NaN gives code 0.
     */
    public int code(float x) {
        int code = 0;
        for (int step = SIZE / 2; step > 0; step /= 2) {
            if (x > thresholds[code + step - 1]) {
                code += step;
            }
        }
        return code;
    }
}
