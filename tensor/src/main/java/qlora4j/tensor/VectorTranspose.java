package qlora4j.tensor;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorShuffle;

/**
 * Transposes matrices in float arrays by blocks of L x L in vectors. It only moves 32-bit elements, so their bits may
 * also be something else than a float.
 *
 * <p>A block is transposed in log2 L steps: step h exchanges, in each pair of rows i and i + h, the upper halves of the
 * first's groups of 2h lanes with the lower halves of the second's (Eklundh 1972).
 */
public final class VectorTranspose {
    private static final int L = Lanes.L;
    private static final VectorShuffle<Float> BY_8 = exchange(8), BY_4 = exchange(4), BY_2 = exchange(2),
            BY_1 = exchange(1);
    private static final VectorMask<Float> UPPER_8 = upper(8), UPPER_4 = upper(4), UPPER_2 = upper(2),
            UPPER_1 = upper(1);

    private final float[] block = new float[L * L];

    private static VectorShuffle<Float> exchange(int h) {
        return VectorShuffle.fromOp(Lanes.F, lane -> (lane ^ h) % L);
    }

    private static VectorMask<Float> upper(int h) {
        long bits = 0;
        for (int lane = 0; lane < L; lane++) {
            bits |= (lane & h) == 0 ? 0 : 1L << lane;
        }
        return VectorMask.fromLong(Lanes.F, bits);
    }

    /**
     * {@code to[at + j * ldTo + i] = from[start + i * ldFrom + j]} for i &lt; rows, j &lt; cols. Blocks are moved whole:
     * both arrays are read and written up to the next multiple of L in either direction.
     */
    public void run(float[] from, int start, int ldFrom, int rows, int cols, float[] to, int at, int ldTo) {
        for (int i = 0; i < rows; i += L) {
            for (int j = 0; j < cols; j += L) {
                block(from, start + i * ldFrom + j, ldFrom, to, at + j * ldTo + i, ldTo);
            }
        }
    }

    private void block(float[] from, int start, int ldFrom, float[] to, int at, int ldTo) {
        float[] own = block;
        if (L == 16) {
            step(from, start, ldFrom, own, 0, L, 8, BY_8, UPPER_8);
            step(own, 0, L, own, 0, L, 4, BY_4, UPPER_4);
            step(own, 0, L, own, 0, L, 2, BY_2, UPPER_2);
        } else if (L == 8) {
            step(from, start, ldFrom, own, 0, L, 4, BY_4, UPPER_4);
            step(own, 0, L, own, 0, L, 2, BY_2, UPPER_2);
        } else {
            step(from, start, ldFrom, own, 0, L, 2, BY_2, UPPER_2);
        }
        step(own, 0, L, to, at, ldTo, 1, BY_1, UPPER_1);
    }

    private static void step(float[] from, int start, int ldFrom, float[] to, int at, int ldTo, int h,
            VectorShuffle<Float> exchange, VectorMask<Float> upper) {
        for (int pair = 0; pair < L / 2; pair++) {
            int i = pair / h * 2 * h + pair % h;
            FloatVector a = FloatVector.fromArray(Lanes.F, from, start + i * ldFrom);
            FloatVector b = FloatVector.fromArray(Lanes.F, from, start + (i + h) * ldFrom);
            a.blend(b.rearrange(exchange), upper).intoArray(to, at + i * ldTo);
            a.rearrange(exchange).blend(b, upper).intoArray(to, at + (i + h) * ldTo);
        }
    }
}
