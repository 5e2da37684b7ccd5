package qlora4j.model;

import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Lanes;

/**
 * Small products of tiles in float arrays, the inner loops of attention. Rows of all arrays of a product lie at one
 * distance, its pitch, which is {@link #PITCH} where rows are not longer: addresses are constants of the code then.
 */
final class VectorTile {
    /** Rows of C that are computed at once. With AVX-512 at its full width there are 32 registers, enough for eight. */
    static final int ROWS = Lanes.L == 16 ? 8 : 4;
    /** Columns of C are computed by two vectors. */
    static final int COLUMNS = 2 * Lanes.L;
    /** Not a multiple of 16 cache lines: rows that follow each other would fall into few sets of a cache. */
    static final int PITCH = 144;
    private static final int L = Lanes.L;

    private VectorTile() {
    }

    /** The pitch for rows of up to {@code longest} elements. */
    static int pitch(int longest) {
        return longest <= PITCH ? PITCH : VectorScratch.roundUp(longest, COLUMNS) + Lanes.L;
    }

    /**
     * {@link #ROWS} rows of {@code C = A·B}, or of {@code C += A·B} when {@code add}; sums run over k in order.
     *
     * @param a element (i, p) at {@code ao + i * pitch + p}
     * @param b element (p, j) at {@code bo + p * pitch + j}
     * @param c element (i, j) at {@code co + i * pitch + j}
     * @param n a multiple of {@link #COLUMNS}
     */
    static void rows(float[] a, int ao, float[] b, int bo, float[] c, int co, int pitch, int n, int k, boolean add) {
        for (int j = 0; j < n; j += COLUMNS) {
            if (ROWS == 8 && pitch == PITCH) {
                eightRows(a, ao, b, bo + j, c, co + j, k, add);
            } else {
                for (int i = 0; i < ROWS; i += 4) {
                    four(a, ao + i * pitch, pitch, 1, b, bo + j, c, co + i * pitch + j, pitch, k, add);
                }
            }
        }
    }

    /** The same with A transposed: element (i, p) at {@code ao + p * pitch + i}. */
    static void columns(float[] a, int ao, float[] b, int bo, float[] c, int co, int pitch, int n, int k,
            boolean add) {
        for (int j = 0; j < n; j += COLUMNS) {
            if (ROWS == 8 && pitch == PITCH) {
                eightColumns(a, ao, b, bo + j, c, co + j, k, add);
            } else {
                for (int i = 0; i < ROWS; i += 4) {
                    four(a, ao + i, 1, pitch, b, bo + j, c, co + i * pitch + j, pitch, k, add);
                }
            }
        }
    }

    /**
     * Four rows and two vectors; element (i, p) of A at {@code ao + i * rowStride + p * colStride}. As in the other two,
     * nothing but the Vector API is called: what the compiler leaves uninlined makes vectors on the heap.
     */
    private static void four(float[] a, int ao, int rowStride, int colStride, float[] b, int bo, float[] c, int co,
            int pitch, int k, boolean add) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        FloatVector c00 = zero, c01 = zero, c10 = zero, c11 = zero, c20 = zero, c21 = zero, c30 = zero, c31 = zero;
        int c1 = co + pitch;
        int c2 = c1 + pitch;
        int c3 = c2 + pitch;
        if (add) {
            c00 = FloatVector.fromArray(Lanes.F, c, co);
            c01 = FloatVector.fromArray(Lanes.F, c, co + L);
            c10 = FloatVector.fromArray(Lanes.F, c, c1);
            c11 = FloatVector.fromArray(Lanes.F, c, c1 + L);
            c20 = FloatVector.fromArray(Lanes.F, c, c2);
            c21 = FloatVector.fromArray(Lanes.F, c, c2 + L);
            c30 = FloatVector.fromArray(Lanes.F, c, c3);
            c31 = FloatVector.fromArray(Lanes.F, c, c3 + L);
        }
        for (int p = 0, at = ao, bt = bo; p < k; p++, at += colStride, bt += pitch) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bt);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bt + L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + rowStride]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + 2 * rowStride]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + 3 * rowStride]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
        }
        c00.intoArray(c, co);
        c01.intoArray(c, co + L);
        c10.intoArray(c, c1);
        c11.intoArray(c, c1 + L);
        c20.intoArray(c, c2);
        c21.intoArray(c, c2 + L);
        c30.intoArray(c, c3);
        c31.intoArray(c, c3 + L);
    }

    /** Eight rows and two vectors. */
    private static void eightRows(float[] a, int ao, float[] b, int bo, float[] c, int co, int k, boolean add) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        FloatVector c00 = zero, c01 = zero, c10 = zero, c11 = zero;
        FloatVector c20 = zero, c21 = zero, c30 = zero, c31 = zero;
        FloatVector c40 = zero, c41 = zero, c50 = zero, c51 = zero;
        FloatVector c60 = zero, c61 = zero, c70 = zero, c71 = zero;
        if (add) {
            c00 = FloatVector.fromArray(Lanes.F, c, co);
            c01 = FloatVector.fromArray(Lanes.F, c, co + L);
            c10 = FloatVector.fromArray(Lanes.F, c, co + PITCH);
            c11 = FloatVector.fromArray(Lanes.F, c, co + PITCH + L);
            c20 = FloatVector.fromArray(Lanes.F, c, co + 2 * PITCH);
            c21 = FloatVector.fromArray(Lanes.F, c, co + 2 * PITCH + L);
            c30 = FloatVector.fromArray(Lanes.F, c, co + 3 * PITCH);
            c31 = FloatVector.fromArray(Lanes.F, c, co + 3 * PITCH + L);
            c40 = FloatVector.fromArray(Lanes.F, c, co + 4 * PITCH);
            c41 = FloatVector.fromArray(Lanes.F, c, co + 4 * PITCH + L);
            c50 = FloatVector.fromArray(Lanes.F, c, co + 5 * PITCH);
            c51 = FloatVector.fromArray(Lanes.F, c, co + 5 * PITCH + L);
            c60 = FloatVector.fromArray(Lanes.F, c, co + 6 * PITCH);
            c61 = FloatVector.fromArray(Lanes.F, c, co + 6 * PITCH + L);
            c70 = FloatVector.fromArray(Lanes.F, c, co + 7 * PITCH);
            c71 = FloatVector.fromArray(Lanes.F, c, co + 7 * PITCH + L);
        }
        for (int p = 0, at = ao, bt = bo; p < k; p++, at++, bt += PITCH) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bt);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bt + L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + PITCH]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + 2 * PITCH]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + 3 * PITCH]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(Lanes.F, a[at + 4 * PITCH]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[at + 5 * PITCH]);
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            x = FloatVector.broadcast(Lanes.F, a[at + 6 * PITCH]);
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            x = FloatVector.broadcast(Lanes.F, a[at + 7 * PITCH]);
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
        }
        c00.intoArray(c, co);
        c01.intoArray(c, co + L);
        c10.intoArray(c, co + PITCH);
        c11.intoArray(c, co + PITCH + L);
        c20.intoArray(c, co + 2 * PITCH);
        c21.intoArray(c, co + 2 * PITCH + L);
        c30.intoArray(c, co + 3 * PITCH);
        c31.intoArray(c, co + 3 * PITCH + L);
        c40.intoArray(c, co + 4 * PITCH);
        c41.intoArray(c, co + 4 * PITCH + L);
        c50.intoArray(c, co + 5 * PITCH);
        c51.intoArray(c, co + 5 * PITCH + L);
        c60.intoArray(c, co + 6 * PITCH);
        c61.intoArray(c, co + 6 * PITCH + L);
        c70.intoArray(c, co + 7 * PITCH);
        c71.intoArray(c, co + 7 * PITCH + L);
    }

    /** Eight rows and two vectors, A transposed. */
    private static void eightColumns(float[] a, int ao, float[] b, int bo, float[] c, int co, int k, boolean add) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        FloatVector c00 = zero, c01 = zero, c10 = zero, c11 = zero;
        FloatVector c20 = zero, c21 = zero, c30 = zero, c31 = zero;
        FloatVector c40 = zero, c41 = zero, c50 = zero, c51 = zero;
        FloatVector c60 = zero, c61 = zero, c70 = zero, c71 = zero;
        if (add) {
            c00 = FloatVector.fromArray(Lanes.F, c, co);
            c01 = FloatVector.fromArray(Lanes.F, c, co + L);
            c10 = FloatVector.fromArray(Lanes.F, c, co + PITCH);
            c11 = FloatVector.fromArray(Lanes.F, c, co + PITCH + L);
            c20 = FloatVector.fromArray(Lanes.F, c, co + 2 * PITCH);
            c21 = FloatVector.fromArray(Lanes.F, c, co + 2 * PITCH + L);
            c30 = FloatVector.fromArray(Lanes.F, c, co + 3 * PITCH);
            c31 = FloatVector.fromArray(Lanes.F, c, co + 3 * PITCH + L);
            c40 = FloatVector.fromArray(Lanes.F, c, co + 4 * PITCH);
            c41 = FloatVector.fromArray(Lanes.F, c, co + 4 * PITCH + L);
            c50 = FloatVector.fromArray(Lanes.F, c, co + 5 * PITCH);
            c51 = FloatVector.fromArray(Lanes.F, c, co + 5 * PITCH + L);
            c60 = FloatVector.fromArray(Lanes.F, c, co + 6 * PITCH);
            c61 = FloatVector.fromArray(Lanes.F, c, co + 6 * PITCH + L);
            c70 = FloatVector.fromArray(Lanes.F, c, co + 7 * PITCH);
            c71 = FloatVector.fromArray(Lanes.F, c, co + 7 * PITCH + L);
        }
        for (int p = 0, at = ao, bt = bo; p < k; p++, at += PITCH, bt += PITCH) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bt);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bt + L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + 1]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + 2]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + 3]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(Lanes.F, a[at + 4]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[at + 5]);
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            x = FloatVector.broadcast(Lanes.F, a[at + 6]);
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            x = FloatVector.broadcast(Lanes.F, a[at + 7]);
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
        }
        c00.intoArray(c, co);
        c01.intoArray(c, co + L);
        c10.intoArray(c, co + PITCH);
        c11.intoArray(c, co + PITCH + L);
        c20.intoArray(c, co + 2 * PITCH);
        c21.intoArray(c, co + 2 * PITCH + L);
        c30.intoArray(c, co + 3 * PITCH);
        c31.intoArray(c, co + 3 * PITCH + L);
        c40.intoArray(c, co + 4 * PITCH);
        c41.intoArray(c, co + 4 * PITCH + L);
        c50.intoArray(c, co + 5 * PITCH);
        c51.intoArray(c, co + 5 * PITCH + L);
        c60.intoArray(c, co + 6 * PITCH);
        c61.intoArray(c, co + 6 * PITCH + L);
        c70.intoArray(c, co + 7 * PITCH);
        c71.intoArray(c, co + 7 * PITCH + L);
    }

    private static FloatVector load(float[] x, int at) {
        return FloatVector.fromArray(Lanes.F, x, at);
    }

    /** {@code Σ a[ao + p]·b[bo + p]} over {@code n} elements, in two interleaved vector sums. */
    static float dot(float[] a, int ao, float[] b, int bo, int n) {
        FloatVector s0 = FloatVector.zero(Lanes.F);
        FloatVector s1 = s0;
        int p = 0;
        for (; p <= n - COLUMNS; p += COLUMNS) {
            s0 = load(a, ao + p).fma(load(b, bo + p), s0);
            s1 = load(a, ao + p + Lanes.L).fma(load(b, bo + p + Lanes.L), s1);
        }
        for (; p <= n - Lanes.L; p += Lanes.L) {
            s0 = load(a, ao + p).fma(load(b, bo + p), s0);
        }
        float sum = Lanes.sum(s0.add(s1));
        for (; p < n; p++) {
            sum = Math.fma(a[ao + p], b[bo + p], sum);
        }
        return sum;
    }

    /** {@code y[yo + p] += factor·x[xo + p]} over {@code n} elements. */
    static void addScaled(float[] y, int yo, float factor, float[] x, int xo, int n) {
        FloatVector f = FloatVector.broadcast(Lanes.F, factor);
        int p = 0;
        for (; p <= n - Lanes.L; p += Lanes.L) {
            f.fma(load(x, xo + p), load(y, yo + p)).intoArray(y, yo + p);
        }
        for (; p < n; p++) {
            y[yo + p] = Math.fma(factor, x[xo + p], y[yo + p]);
        }
    }

    /** {@code x[at + p] *= factor} over {@code n} elements. */
    static void scale(float[] x, int at, int n, float factor) {
        int p = 0;
        for (; p <= n - Lanes.L; p += Lanes.L) {
            load(x, at + p).mul(factor).intoArray(x, at + p);
        }
        for (; p < n; p++) {
            x[at + p] *= factor;
        }
    }
}
