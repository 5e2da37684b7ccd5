package qlora4j.model;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import qlora4j.tensor.Lanes;

/**
 * The exponential in float32 vectors, the same bits at every width and for the rest of a row: {@code x = n·ln 2 + r}
 * with ln 2 in two parts (Cody and Waite 1980), the Taylor polynomial of degree 7 in {@code |r| ≤ ln 2 / 2} (its
 * remainder is below 0.1 ulp), times 2ⁿ in two factors so that subnormal results are rounded once.
 *
 * <p>Within {@link #EXP_ULPS} units in the last place of the true value; 0 for -∞ and all that underflows, +∞ above the
 * range, NaN for NaN.
 */
final class VectorMath {
    /** The bound on the error of {@link #exp}, in ulps of the correctly rounded result. */
    static final double EXP_ULPS = 1.5;

    private static final float LOG2_E = 1.4426950408889634f;
    /** The leading 15 bits of ln 2: times any n of the range it is exact. */
    private static final float LN2_HIGH = 0x1.62e4p-1f;
    private static final float LN2_LOW = (float) (0x1.62e42fefa39efp-1 - 0x1.62e4p-1);
    /** Below this the result is 0, above the other +∞. */
    private static final float LEAST = -104f;
    private static final float MOST = 89f;
    /** Adding it rounds to an integer, which then stands in the lowest bits. */
    private static final float ROUNDER = 0x1.8p23f;
    private static final int ROUNDER_BITS = Float.floatToRawIntBits(ROUNDER);
    private static final int BIAS = 127;
    private static final int MANTISSA_BITS = 23;
    private static final float C7 = 1f / 5040;
    private static final float C6 = 1f / 720;
    private static final float C5 = 1f / 120;
    private static final float C4 = 1f / 24;
    private static final float C3 = 1f / 6;
    private static final float C2 = 1f / 2;

    private VectorMath() {
    }

    /**
     * eˣ in every lane. It calls nothing but the Vector API, which the compiler always inlines: in the methods that use it
     * a call of our own may be one too many, and each would then make its vector on the heap.
     */
    static FloatVector exp(FloatVector x) {
        FloatVector c = x.max(LEAST).min(MOST);
        FloatVector t = c.fma(FloatVector.broadcast(Lanes.F, LOG2_E), FloatVector.broadcast(Lanes.F, ROUNDER));
        FloatVector n = t.sub(ROUNDER);
        FloatVector r = n.fma(FloatVector.broadcast(Lanes.F, -LN2_HIGH), c);
        r = n.fma(FloatVector.broadcast(Lanes.F, -LN2_LOW), r);
        FloatVector p = r.fma(FloatVector.broadcast(Lanes.F, C7), FloatVector.broadcast(Lanes.F, C6));
        p = p.fma(r, FloatVector.broadcast(Lanes.F, C5));
        p = p.fma(r, FloatVector.broadcast(Lanes.F, C4));
        p = p.fma(r, FloatVector.broadcast(Lanes.F, C3));
        p = p.fma(r, FloatVector.broadcast(Lanes.F, C2));
        p = p.fma(r.mul(r), r).add(1f);
        // 2 to the power of a half and of the rest, each from -126 to 127.
        IntVector i = t.reinterpretAsInts().sub(ROUNDER_BITS);
        IntVector half = i.lanewise(VectorOperators.ASHR, 1);
        IntVector rest = i.sub(half);
        return p.mul(half.add(BIAS).lanewise(VectorOperators.LSHL, MANTISSA_BITS).reinterpretAsFloats())
                .mul(rest.add(BIAS).lanewise(VectorOperators.LSHL, MANTISSA_BITS).reinterpretAsFloats());
    }

    /** eˣ: the same operations on one number. */
    static float exp(float x) {
        float c = Math.min(Math.max(x, LEAST), MOST);
        float t = Math.fma(c, LOG2_E, ROUNDER);
        float n = t - ROUNDER;
        float r = Math.fma(n, -LN2_HIGH, c);
        r = Math.fma(n, -LN2_LOW, r);
        float p = Math.fma(r, C7, C6);
        p = Math.fma(p, r, C5);
        p = Math.fma(p, r, C4);
        p = Math.fma(p, r, C3);
        p = Math.fma(p, r, C2);
        p = Math.fma(p, r * r, r) + 1f;
        int i = Float.floatToRawIntBits(t) - ROUNDER_BITS;
        int half = i >> 1;
        return p * power(half) * power(i - half);
    }

    private static float power(int n) {
        return Float.intBitsToFloat(n + BIAS << MANTISSA_BITS);
    }

    /** The logistic function 1/(1 + e⁻ˣ) in every lane. */
    static FloatVector sigmoid(FloatVector x) {
        return FloatVector.broadcast(Lanes.F, 1f).div(exp(x.neg()).add(1f));
    }

    /** The logistic function of one number. */
    static float sigmoid(float x) {
        return 1f / (exp(-x) + 1f);
    }
}
