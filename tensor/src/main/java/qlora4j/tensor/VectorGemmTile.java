package qlora4j.tensor;

import jdk.incubator.vector.FloatVector;

/**
 * The micro-kernel of {@link VectorGemm}: a tile of C of {@link #R} rows and two vectors stays in registers while it
 * goes along a panel of B and as many rows of packed A. Six rows fill the 16 registers of AVX2: 12 sums, 2 vectors of B,
 * 1 element of A in all lanes. Where there are 32, two tiles at once halve the reads of B.
 */
final class VectorGemmTile {
    /** Rows of a tile. */
    static final int R = 6;
    private static final int NC = VectorGemm.NC;
    private static final int L = Lanes.L;
    /** With AVX-512 at its full width there are 32 registers. */
    private static final boolean PAIRS = Lanes.L == 16;
    /** Rows of A that are packed side by side: as many tiles as whole vectors, or less than one, can write. */
    static final int GROUP = Lanes.L == 8 ? R : 2 * R;
    private VectorGemmTile() {
    }

    /**
     * {@code c[co + i * NC + j] += Σ A[i][p]·b[bs + p * NC + j]} for p &lt; pc, i &lt; rows, j &lt; NC, in the order
     * of p, where {@code A[i][p]} is {@code a[ao + i / GROUP * stride + p * GROUP + i % GROUP]}.
     *
     * @param stride from one group of rows to the next
     * @param rows a multiple of R
     */
    static void rows(float[] a, int ao, int stride, float[] b, int bs, int pc, float[] c, int co, int rows) {
        for (int i = 0, group = ao; i < rows; i += GROUP, group += stride) {
            if (PAIRS && i + GROUP <= rows) {
                twoTiles(a, group, b, bs, pc, c, co + i * NC);
                continue;
            }
            for (int r = 0; r < Math.min(GROUP, rows - i); r += R) {
                tile(a, group + r, b, bs, pc, c, co + (i + r) * NC);
            }
        }
    }

    /** R rows and two vectors of C. */
    private static void tile(float[] a, int ao, float[] b, int bs, int pc, float[] c, int co) {
        FloatVector c00 = load(c, co, 0, 0), c01 = load(c, co, 0, 1);
        FloatVector c10 = load(c, co, 1, 0), c11 = load(c, co, 1, 1);
        FloatVector c20 = load(c, co, 2, 0), c21 = load(c, co, 2, 1);
        FloatVector c30 = load(c, co, 3, 0), c31 = load(c, co, 3, 1);
        FloatVector c40 = load(c, co, 4, 0), c41 = load(c, co, 4, 1);
        FloatVector c50 = load(c, co, 5, 0), c51 = load(c, co, 5, 1);
        for (int p = 0, at = ao, bo = bs; p < pc; p++, at += GROUP, bo += NC) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bo + Lanes.L);
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
        }
        store(c00, c01, c, co, 0);
        store(c10, c11, c, co, 1);
        store(c20, c21, c, co, 2);
        store(c30, c31, c, co, 3);
        store(c40, c41, c, co, 4);
        store(c50, c51, c, co, 5);
    }

    /** 2·R rows and two vectors of C. Written without helpers: it is near the limit of what the compiler inlines. */
    private static void twoTiles(float[] a, int ao, float[] b, int bs, int pc, float[] c, int co) {
        FloatVector c00 = FloatVector.fromArray(Lanes.F, c, co);
        FloatVector c01 = FloatVector.fromArray(Lanes.F, c, co + L);
        FloatVector c10 = FloatVector.fromArray(Lanes.F, c, co + NC);
        FloatVector c11 = FloatVector.fromArray(Lanes.F, c, co + NC + L);
        FloatVector c20 = FloatVector.fromArray(Lanes.F, c, co + 2 * NC);
        FloatVector c21 = FloatVector.fromArray(Lanes.F, c, co + 2 * NC + L);
        FloatVector c30 = FloatVector.fromArray(Lanes.F, c, co + 3 * NC);
        FloatVector c31 = FloatVector.fromArray(Lanes.F, c, co + 3 * NC + L);
        FloatVector c40 = FloatVector.fromArray(Lanes.F, c, co + 4 * NC);
        FloatVector c41 = FloatVector.fromArray(Lanes.F, c, co + 4 * NC + L);
        FloatVector c50 = FloatVector.fromArray(Lanes.F, c, co + 5 * NC);
        FloatVector c51 = FloatVector.fromArray(Lanes.F, c, co + 5 * NC + L);
        FloatVector c60 = FloatVector.fromArray(Lanes.F, c, co + 6 * NC);
        FloatVector c61 = FloatVector.fromArray(Lanes.F, c, co + 6 * NC + L);
        FloatVector c70 = FloatVector.fromArray(Lanes.F, c, co + 7 * NC);
        FloatVector c71 = FloatVector.fromArray(Lanes.F, c, co + 7 * NC + L);
        FloatVector c80 = FloatVector.fromArray(Lanes.F, c, co + 8 * NC);
        FloatVector c81 = FloatVector.fromArray(Lanes.F, c, co + 8 * NC + L);
        FloatVector c90 = FloatVector.fromArray(Lanes.F, c, co + 9 * NC);
        FloatVector c91 = FloatVector.fromArray(Lanes.F, c, co + 9 * NC + L);
        FloatVector c100 = FloatVector.fromArray(Lanes.F, c, co + 10 * NC);
        FloatVector c101 = FloatVector.fromArray(Lanes.F, c, co + 10 * NC + L);
        FloatVector c110 = FloatVector.fromArray(Lanes.F, c, co + 11 * NC);
        FloatVector c111 = FloatVector.fromArray(Lanes.F, c, co + 11 * NC + L);
        for (int p = 0, at = ao, bo = bs; p < pc; p++, at += GROUP, bo += NC) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bo + L);
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
            x = FloatVector.broadcast(Lanes.F, a[at + 8]);
            c80 = x.fma(b0, c80);
            c81 = x.fma(b1, c81);
            x = FloatVector.broadcast(Lanes.F, a[at + 9]);
            c90 = x.fma(b0, c90);
            c91 = x.fma(b1, c91);
            x = FloatVector.broadcast(Lanes.F, a[at + 10]);
            c100 = x.fma(b0, c100);
            c101 = x.fma(b1, c101);
            x = FloatVector.broadcast(Lanes.F, a[at + 11]);
            c110 = x.fma(b0, c110);
            c111 = x.fma(b1, c111);
        }
        c00.intoArray(c, co);
        c01.intoArray(c, co + L);
        c10.intoArray(c, co + NC);
        c11.intoArray(c, co + NC + L);
        c20.intoArray(c, co + 2 * NC);
        c21.intoArray(c, co + 2 * NC + L);
        c30.intoArray(c, co + 3 * NC);
        c31.intoArray(c, co + 3 * NC + L);
        c40.intoArray(c, co + 4 * NC);
        c41.intoArray(c, co + 4 * NC + L);
        c50.intoArray(c, co + 5 * NC);
        c51.intoArray(c, co + 5 * NC + L);
        c60.intoArray(c, co + 6 * NC);
        c61.intoArray(c, co + 6 * NC + L);
        c70.intoArray(c, co + 7 * NC);
        c71.intoArray(c, co + 7 * NC + L);
        c80.intoArray(c, co + 8 * NC);
        c81.intoArray(c, co + 8 * NC + L);
        c90.intoArray(c, co + 9 * NC);
        c91.intoArray(c, co + 9 * NC + L);
        c100.intoArray(c, co + 10 * NC);
        c101.intoArray(c, co + 10 * NC + L);
        c110.intoArray(c, co + 11 * NC);
        c111.intoArray(c, co + 11 * NC + L);
    }

    private static FloatVector load(float[] c, int co, int r, int v) {
        return FloatVector.fromArray(Lanes.F, c, co + r * NC + v * Lanes.L);
    }

    private static void store(FloatVector v0, FloatVector v1, float[] c, int co, int r) {
        v0.intoArray(c, co + r * NC);
        v1.intoArray(c, co + r * NC + Lanes.L);
    }
}
