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
    private static final int KC = VectorGemm.KC;
    /** With AVX-512 at its full width there are 32 registers. */
    private static final boolean PAIRS = Lanes.L == 16;
    private static final float[] ZEROS = new float[2 * R * NC];

    private VectorGemmTile() {
    }

    /**
     * {@code c[co + i * NC + j] += Σ a[ao + i * KC + p]·b[bs + p * NC + j]} for p &lt; pc, i &lt; rows, j &lt; NC, in
     * the order of p.
     *
     * @param rows a multiple of R
     * @param first whether the sums begin, with 0, instead of being added to
     */
    static void rows(float[] a, int ao, float[] b, int bs, int pc, float[] c, int co, int rows, boolean first) {
        float[] from = first ? ZEROS : c;
        int i = 0;
        for (; PAIRS && i <= rows - 2 * R; i += 2 * R) {
            int at = co + i * NC;
            twoTiles(a, ao + i * KC, b, bs, pc, from, first ? 0 : at, c, at);
        }
        for (; i < rows; i += R) {
            int at = co + i * NC;
            tile(a, ao + i * KC, b, bs, pc, from, first ? 0 : at, c, at);
        }
    }

    /** R rows and two vectors of C, which begin with what is in {@code from}. */
    private static void tile(float[] a, int ao, float[] b, int bs, int pc, float[] from, int fo, float[] c,
            int co) {
        FloatVector c00 = load(from, fo, 0, 0), c01 = load(from, fo, 0, 1);
        FloatVector c10 = load(from, fo, 1, 0), c11 = load(from, fo, 1, 1);
        FloatVector c20 = load(from, fo, 2, 0), c21 = load(from, fo, 2, 1);
        FloatVector c30 = load(from, fo, 3, 0), c31 = load(from, fo, 3, 1);
        FloatVector c40 = load(from, fo, 4, 0), c41 = load(from, fo, 4, 1);
        FloatVector c50 = load(from, fo, 5, 0), c51 = load(from, fo, 5, 1);
        for (int at = ao, bo = bs; at < ao + pc; at++, bo += NC) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bo + Lanes.L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + KC]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + 2 * KC]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + 3 * KC]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(Lanes.F, a[at + 4 * KC]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[at + 5 * KC]);
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

    /** The same of 2·R rows. Written without helpers: it is near the limit of what the compiler inlines. */
    private static void twoTiles(float[] a, int ao, float[] b, int bs, int pc, float[] from, int fo, float[] c,
            int co) {
        FloatVector c00 = FloatVector.fromArray(Lanes.F, from, fo);
        FloatVector c01 = FloatVector.fromArray(Lanes.F, from, fo + L);
        FloatVector c10 = FloatVector.fromArray(Lanes.F, from, fo + NC);
        FloatVector c11 = FloatVector.fromArray(Lanes.F, from, fo + NC + L);
        FloatVector c20 = FloatVector.fromArray(Lanes.F, from, fo + 2 * NC);
        FloatVector c21 = FloatVector.fromArray(Lanes.F, from, fo + 2 * NC + L);
        FloatVector c30 = FloatVector.fromArray(Lanes.F, from, fo + 3 * NC);
        FloatVector c31 = FloatVector.fromArray(Lanes.F, from, fo + 3 * NC + L);
        FloatVector c40 = FloatVector.fromArray(Lanes.F, from, fo + 4 * NC);
        FloatVector c41 = FloatVector.fromArray(Lanes.F, from, fo + 4 * NC + L);
        FloatVector c50 = FloatVector.fromArray(Lanes.F, from, fo + 5 * NC);
        FloatVector c51 = FloatVector.fromArray(Lanes.F, from, fo + 5 * NC + L);
        FloatVector c60 = FloatVector.fromArray(Lanes.F, from, fo + 6 * NC);
        FloatVector c61 = FloatVector.fromArray(Lanes.F, from, fo + 6 * NC + L);
        FloatVector c70 = FloatVector.fromArray(Lanes.F, from, fo + 7 * NC);
        FloatVector c71 = FloatVector.fromArray(Lanes.F, from, fo + 7 * NC + L);
        FloatVector c80 = FloatVector.fromArray(Lanes.F, from, fo + 8 * NC);
        FloatVector c81 = FloatVector.fromArray(Lanes.F, from, fo + 8 * NC + L);
        FloatVector c90 = FloatVector.fromArray(Lanes.F, from, fo + 9 * NC);
        FloatVector c91 = FloatVector.fromArray(Lanes.F, from, fo + 9 * NC + L);
        FloatVector c100 = FloatVector.fromArray(Lanes.F, from, fo + 10 * NC);
        FloatVector c101 = FloatVector.fromArray(Lanes.F, from, fo + 10 * NC + L);
        FloatVector c110 = FloatVector.fromArray(Lanes.F, from, fo + 11 * NC);
        FloatVector c111 = FloatVector.fromArray(Lanes.F, from, fo + 11 * NC + L);
        for (int at = ao, bo = bs; at < ao + pc; at++, bo += NC) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bo + L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[at]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[at + KC]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[at + 2 * KC]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[at + 3 * KC]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(Lanes.F, a[at + 4 * KC]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[at + 5 * KC]);
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            x = FloatVector.broadcast(Lanes.F, a[at + 6 * KC]);
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            x = FloatVector.broadcast(Lanes.F, a[at + 7 * KC]);
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
            x = FloatVector.broadcast(Lanes.F, a[at + 8 * KC]);
            c80 = x.fma(b0, c80);
            c81 = x.fma(b1, c81);
            x = FloatVector.broadcast(Lanes.F, a[at + 9 * KC]);
            c90 = x.fma(b0, c90);
            c91 = x.fma(b1, c91);
            x = FloatVector.broadcast(Lanes.F, a[at + 10 * KC]);
            c100 = x.fma(b0, c100);
            c101 = x.fma(b1, c101);
            x = FloatVector.broadcast(Lanes.F, a[at + 11 * KC]);
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
