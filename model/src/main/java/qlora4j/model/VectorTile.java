package qlora4j.model;

import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Lanes;

/** Small products of tiles in float arrays, the inner loops of attention. */
final class VectorTile {
    /** Rows of C are computed by fours. */
    static final int ROWS = 4;
    /** Columns of C are computed by two vectors. */
    static final int COLUMNS = 2 * Lanes.L;
    /** With AVX-512 at its full width there are 32 registers: enough for eight rows at once. */
    private static final boolean EIGHT = Lanes.L == 16;

    private VectorTile() {
    }

    /**
     * {@code C = A·B}, or {@code C += A·B} when {@code add}; sums run over k in order.
     *
     * @param a element (i, p) at {@code i * rowStride + p * colStride}
     * @param b element (p, j) at {@code bo + p * ldb + j}
     * @param c element (i, j) at {@code co + i * ldc + j}
     * @param m a multiple of {@link #ROWS}
     * @param n a multiple of {@link #COLUMNS}
     */
    static void multiply(float[] a, int rowStride, int colStride, float[] b, int bo, int ldb, float[] c, int co,
            int ldc, int m, int n, int k, boolean add) {
        for (int j = 0; j < n; j += COLUMNS) {
            int i = 0;
            for (; EIGHT && i <= m - 2 * ROWS; i += 2 * ROWS) {
                eight(a, i * rowStride, rowStride, colStride, b, bo + j, ldb, c, co + i * ldc + j, ldc, k, add);
            }
            for (; i < m; i += ROWS) {
                block(a, i * rowStride, rowStride, colStride, b, bo + j, ldb, c, co + i * ldc + j, ldc, k, add);
            }
        }
    }

    private static void block(float[] a, int ao, int rowStride, int colStride, float[] b, int bo, int ldb, float[] c,
            int co, int ldc, int k, boolean add) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        FloatVector c00 = zero, c01 = zero, c10 = zero, c11 = zero, c20 = zero, c21 = zero, c30 = zero, c31 = zero;
        if (add) {
            c00 = load(c, co);
            c01 = load(c, co + Lanes.L);
            c10 = load(c, co + ldc);
            c11 = load(c, co + ldc + Lanes.L);
            c20 = load(c, co + 2 * ldc);
            c21 = load(c, co + 2 * ldc + Lanes.L);
            c30 = load(c, co + 3 * ldc);
            c31 = load(c, co + 3 * ldc + Lanes.L);
        }
        int a1 = rowStride;
        int a2 = 2 * rowStride;
        int a3 = 3 * rowStride;
        for (int p = 0, at = ao, bt = bo; p < k; p++, at += colStride, bt += ldb) {
            FloatVector b0 = load(b, bt);
            FloatVector b1 = load(b, bt + Lanes.L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + a1]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + a2]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + a3]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
        }
        store(c00, c01, c, co);
        store(c10, c11, c, co + ldc);
        store(c20, c21, c, co + 2 * ldc);
        store(c30, c31, c, co + 3 * ldc);
    }

    private static void eight(float[] a, int ao, int rowStride, int colStride, float[] b, int bo, int ldb, float[] c,
            int co, int ldc, int k, boolean add) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        FloatVector c00 = zero, c01 = zero, c10 = zero, c11 = zero, c20 = zero, c21 = zero, c30 = zero, c31 = zero;
        FloatVector c40 = zero, c41 = zero, c50 = zero, c51 = zero, c60 = zero, c61 = zero, c70 = zero, c71 = zero;
        if (add) {
            c00 = load(c, co);
            c01 = load(c, co + Lanes.L);
            c10 = load(c, co + ldc);
            c11 = load(c, co + ldc + Lanes.L);
            c20 = load(c, co + 2 * ldc);
            c21 = load(c, co + 2 * ldc + Lanes.L);
            c30 = load(c, co + 3 * ldc);
            c31 = load(c, co + 3 * ldc + Lanes.L);
            c40 = load(c, co + 4 * ldc);
            c41 = load(c, co + 4 * ldc + Lanes.L);
            c50 = load(c, co + 5 * ldc);
            c51 = load(c, co + 5 * ldc + Lanes.L);
            c60 = load(c, co + 6 * ldc);
            c61 = load(c, co + 6 * ldc + Lanes.L);
            c70 = load(c, co + 7 * ldc);
            c71 = load(c, co + 7 * ldc + Lanes.L);
        }
        for (int p = 0, at = ao, bt = bo; p < k; p++, at += colStride, bt += ldb) {
            FloatVector b0 = load(b, bt);
            FloatVector b1 = load(b, bt + Lanes.L);
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
            x = FloatVector.broadcast(Lanes.F, a[at + 4 * rowStride]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[at + 5 * rowStride]);
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            x = FloatVector.broadcast(Lanes.F, a[at + 6 * rowStride]);
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            x = FloatVector.broadcast(Lanes.F, a[at + 7 * rowStride]);
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
        }
        store(c00, c01, c, co);
        store(c10, c11, c, co + ldc);
        store(c20, c21, c, co + 2 * ldc);
        store(c30, c31, c, co + 3 * ldc);
        store(c40, c41, c, co + 4 * ldc);
        store(c50, c51, c, co + 5 * ldc);
        store(c60, c61, c, co + 6 * ldc);
        store(c70, c71, c, co + 7 * ldc);
    }

    private static FloatVector load(float[] x, int at) {
        return FloatVector.fromArray(Lanes.F, x, at);
    }

    private static void store(FloatVector v0, FloatVector v1, float[] c, int co) {
        v0.intoArray(c, co);
        v1.intoArray(c, co + Lanes.L);
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
