package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import qlora4j.tensor.Lanes;

/** The exponential against StrictMath's in double, over the whole range of floats. */
@Tag("lanes")
class VectorMathTest {
    /** A prime step through all bit patterns: about a million numbers of every exponent and sign. */
    private static final int STEP = 4093;

    @Test
    void withinItsBoundOverTheFloats() {
        float[] x = new float[Lanes.L];
        double worst = 0;
        for (long bits = 0; bits < 1L << 32; bits += (long) STEP * Lanes.L) {
            for (int lane = 0; lane < Lanes.L; lane++) {
                x[lane] = Float.intBitsToFloat((int) (bits + (long) STEP * lane));
            }
            worst = Math.max(worst, worstOf(x));
        }
        assertThat(worst).isLessThanOrEqualTo(VectorMath.EXP_ULPS);
    }

    @Test
    void withinItsBoundWhereItMatters() {
        float[] x = new float[Lanes.L];
        double worst = 0;
        for (float from = -105; from < 90; from += 0.0009f * Lanes.L) {
            for (int lane = 0; lane < Lanes.L; lane++) {
                x[lane] = from + 0.0009f * lane;
            }
            worst = Math.max(worst, worstOf(x));
        }
        assertThat(worst).isLessThanOrEqualTo(VectorMath.EXP_ULPS);
    }

    /** The largest error in ulps of the true result; infinite where a NaN or an infinity is missed. */
    private static double worstOf(float[] x) {
        float[] y = new float[x.length];
        VectorMath.exp(FloatVector.fromArray(Lanes.F, x, 0)).intoArray(y, 0);
        double worst = 0;
        for (int i = 0; i < x.length; i++) {
            assertThat(Float.floatToIntBits(VectorMath.exp(x[i]))).as("one number as a lane: %s", x[i])
                    .isEqualTo(Float.floatToIntBits(y[i]));
            double e = StrictMath.exp(x[i]);
            float nearest = (float) e;
            boolean same = Float.floatToIntBits(nearest) == Float.floatToIntBits(y[i]);
            double error = same ? 0 : Math.abs(y[i] - e) / Math.ulp(nearest);
            worst = Math.max(worst, Double.isNaN(error) ? Double.POSITIVE_INFINITY : error);
        }
        return worst;
    }

    @Test
    void edges() {
        float[] x = {Float.NEGATIVE_INFINITY, -0f, 0f, Float.POSITIVE_INFINITY, Float.NaN, 88.8f, -104f, -103.9f};
        float[] y = {0f, 1f, 1f, Float.POSITIVE_INFINITY, Float.NaN, Float.POSITIVE_INFINITY, 0f, Float.MIN_VALUE};
        for (int i = 0; i < x.length; i++) {
            // Boxed, so that NaN equals NaN and -0 is not 0.
            assertThat((Float) VectorMath.exp(x[i])).as("exp(%s)", x[i]).isEqualTo((Float) y[i]);
            assertThat((Float) VectorMath.exp(FloatVector.broadcast(Lanes.F, x[i])).lane(1)).isEqualTo((Float) y[i]);
        }
        assertThat(VectorMath.sigmoid(-200f)).isEqualTo(0f);
        assertThat(VectorMath.sigmoid(200f)).isEqualTo(1f);
    }
}
