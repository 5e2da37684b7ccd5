package qlora4j.nf4;

/**
 * The constant of a block: its largest magnitude, and numbers divided by it. Shared by all block-wise data types.
 *
 * <p>Semantics, everywhere in float32:
 * <ul>
 * <li>A number is multiplied by the rounded reciprocal {@code 1f / absmax}, not divided. bitsandbytes' CUDA kernels
 * take an approximate reciprocal, up to an ulp off: a documented divergence that shows only on exact ties (about one
 * FP4 code in 25,000 of its recorded data, where 16-bit inputs have such quotients; no NF4 code).
 * <li>Where that reciprocal is infinite (absmax of 2^-128, about 2.94e-39, or less), the quotient is taken in double and rounded.
 * bitsandbytes' CUDA kernels flush such numbers to zero instead: a documented divergence, as is every subnormal absmax
 * or reciprocal.
 * <li>A block of zeros has the constant 0 and normalizes to 0, so it gets the code of 0. bitsandbytes' CUDA kernels
 * compute 0 times infinity there and give code 0, a documented divergence; its CPU kernels agree with ours.
 * <li>A block that holds a NaN has the constant NaN, so that all of it dequantizes to NaN: damage stays visible.
 * <li>A block that holds an infinity has the constant infinity; finite numbers normalize to (signed) 0, the infinities
 * to NaN. It dequantizes to NaN where the code's value is 0, to an infinity elsewhere.
 * </ul>
 */
public final class Absmax {
    private static final int MAGNITUDE = 0x7fff_ffff;

    private Absmax() {
    }

    /** The larger magnitude of a running maximum and {@code x}; a NaN wins over everything. */
    public static float max(float absmax, float x) {
        return Math.max(absmax, Math.abs(x));
    }

    /** The largest magnitude from the largest of the numbers' bits without sign, which order as the magnitudes do. */
    public static float ofBits(int largestMagnitudeBits) {
        float absmax = Float.intBitsToFloat(largestMagnitudeBits & MAGNITUDE);
        return absmax != absmax ? Float.NaN : absmax;
    }

    /** The factor that {@link #normalize} multiplies with. */
    public static float reciprocal(float absmax) {
        return 1f / absmax;
    }

    /** Whether a block's numbers cannot be multiplied by {@link #reciprocal}: absmax is 0, or its reciprocal overflows. */
    public static boolean isTiny(float absmax) {
        return Float.isInfinite(reciprocal(absmax));
    }

    /** {@code x} as a share of its block's largest magnitude, -1 to 1 (within an ulp). */
    public static float normalize(float x, float absmax) {
        if (absmax == 0) {
            return 0;
        }
        return isTiny(absmax) ? (float) ((double) x / absmax) : x * reciprocal(absmax);
    }
}
