package qlora4j.tensor;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;

/**
 * Products of many rows with few columns, such as an adapter's {@code u = x·Aᵀ} and {@code du = dy·B}:
 * {@code C [m, n] = alpha·A [m, k]·B [k, n]} with n at most {@link #COLUMNS}. {@link VectorGemm} would transpose the
 * large matrix to pack it; here it is copied as it lies, a few rows at a time, and B is what is packed: its rows filled
 * up to whole vectors. A tile's sums are twelve vectors at any width: twelve rows of one, or six of two.
 *
 * <p>Every element of C is summed by one task in the order of k, as in {@link VectorGemm}, and has the same bits.
 */
final class VectorNarrow {
    /** Most columns of C: two vectors. */
    static final int COLUMNS = 2 * Lanes.L;
    /** Rows of A that are copied at a time. */
    static final int ROWS = 12;
    private static final int L = Lanes.L;
    /** Columns of A that are copied at a time. */
    private static final int KC = VectorGemm.KC;
    private static final int ROWS_PER_TASK = 4 * ROWS;
    /** Floats of a tile's sums, at most. */
    static final int SUMS = ROWS * COLUMNS;

    private final Team team;
    private final Scratch[] scratch;
    private final Columns packed = new Columns();

    /** One thread's memory. */
    static final class Scratch {
        /** Rows of A, row r from {@code r * KC} on, and room for a block of a transposition. */
        final float[] rows = new float[(ROWS + L) * KC];
        final VectorTranspose transpose = new VectorTranspose();
        private final float[] sums = new float[SUMS];

        static Scratch[] of(Team team) {
            Scratch[] s = new Scratch[team.size()];
            Arrays.setAll(s, worker -> new Scratch());
            return s;
        }
    }

    /** B packed: {@code packed[p * width + j] = alpha·B[p][j]}; columns beyond n may be anything. */
    static final class Columns {
        private float[] packed = new float[0];
        private int width;
        private VectorGemm.FewColumns of;

        /** Packs B, as {@link VectorNarrow#multiply} takes it; how many pieces it is packed in. */
        int begin(VectorGemm.FewColumns product) {
            of = product;
            int n = product.c().cols();
            width = n <= L ? L : COLUMNS;
            int needed = Math.multiplyExact(k() + L, width);
            if (packed.length < needed) {
                packed = new float[needed];
            }
            return (k() + KC - 1) / KC;
        }

        private int k() {
            return of.transposed() ? of.b().cols() : of.b().rows();
        }

        /** One piece, or nothing where there are not so many. */
        void pack(int piece, Scratch own) {
            int p0 = piece * KC;
            int pc = Math.min(KC, k() - p0);
            if (pc <= 0) {
                return;
            }
            int n = of.c().cols();
            if (of.transposed()) {
                transpose(of.b(), p0, pc, n, own);
            } else {
                for (int p = p0; p < p0 + pc; p++) {
                    Floats.load(of.b(), (long) p * n, n, packed, p * width);
                }
            }
            if (of.alpha() != 1) {
                for (int i = p0 * width; i < (p0 + pc) * width; i++) {
                    packed[i] *= of.alpha();
                }
            }
        }

        /** Columns of B from its transpose. A short piece is the last one: what its blocks write beyond is not read. */
        private void transpose(Tensor b, int p0, int pc, int n, Scratch own) {
            for (int j = 0; j < n; j += L) {
                int count = Math.min(L, n - j);
                for (int i = 0; i < count; i++) {
                    Floats.load(b, (long) (j + i) * b.cols() + p0, pc, own.rows, i * KC);
                }
                Arrays.fill(own.rows, count * KC, L * KC, 0f);
                own.transpose.run(own.rows, 0, KC, count, pc, packed, p0 * width + j, width);
            }
        }

        /** {@code sums[r * width + j] += Σ a[ao + r * KC + p]·B[p0 + p][j]} over {@code pc} columns of twelve rows. */
        void addTo(float[] sums, float[] a, int ao, int p0, int pc) {
            if (width == L) {
                oneVector(a, ao, packed, p0 * width, pc, sums);
            } else {
                twoVectors(a, ao, packed, p0 * width, pc, sums, 0);
                twoVectors(a, ao + ROWS / 2 * KC, packed, p0 * width, pc, sums, ROWS / 2 * width);
            }
        }

        /** Writes the sums of {@code count} rows to C, or adds them, from row i on. */
        void write(float[] sums, int count, Tensor c, int i, boolean accumulate) {
            int n = c.cols();
            int run = n == width ? count : 1;
            for (int r = 0; r < count; r += run) {
                if (accumulate) {
                    Floats.addTo(sums, r * width, run * n, c, (long) (i + r) * n);
                } else {
                    Floats.store(sums, r * width, run * n, c, (long) (i + r) * n);
                }
            }
        }
    }

    VectorNarrow(Team team) {
        this.team = team;
        this.scratch = Scratch.of(team);
    }

    /**
     * {@code c = alpha·a·b}, or added to c.
     *
     * @param a [m, k]
     * @param b [k, n], or [n, k] when {@code transposedB}
     * @param c [m, n], n at most {@link #COLUMNS}
     */
    synchronized void multiply(Tensor a, Tensor b, boolean transposedB, float alpha, Tensor c, boolean accumulate) {
        int m = c.rows();
        int pieces = packed.begin(new VectorGemm.FewColumns(b, transposedB, alpha, c));
        team.run(pieces, (piece, worker) -> packed.pack(piece, scratch[worker]));
        team.run((m + ROWS_PER_TASK - 1) / ROWS_PER_TASK, (task, worker) -> {
            int end = Math.min(m, (task + 1) * ROWS_PER_TASK);
            for (int i = task * ROWS_PER_TASK; i < end; i += ROWS) {
                int count = Math.min(ROWS, end - i);
                tile(a, i, count, scratch[worker]);
                packed.write(scratch[worker].sums, count, c, i, accumulate);
            }
        });
    }

    /** Sums of {@code count} rows of A from i on; those of the tile's other rows are anything. */
    private void tile(Tensor a, int i, int count, Scratch own) {
        int k = a.cols();
        Arrays.fill(own.sums, 0f);
        for (int p0 = 0; p0 < k; p0 += KC) {
            int pc = Math.min(KC, k - p0);
            for (int r = 0; r < count; r++) {
                Floats.load(a, (long) (i + r) * k + p0, pc, own.rows, r * KC);
            }
            packed.addTo(own.sums, own.rows, 0, p0, pc);
        }
    }

    /** {@code c[r * L + j] += Σ a[ao + r * KC + p]·b[bs + p * L + j]} for twelve rows. */
    private static void oneVector(float[] a, int ao, float[] b, int bs, int pc, float[] c) {
        FloatVector c0 = load(c, 0, 0), c1 = load(c, 0, 1), c2 = load(c, 0, 2), c3 = load(c, 0, 3);
        FloatVector c4 = load(c, 0, 4), c5 = load(c, 0, 5), c6 = load(c, 0, 6), c7 = load(c, 0, 7);
        FloatVector c8 = load(c, 0, 8), c9 = load(c, 0, 9), c10 = load(c, 0, 10), c11 = load(c, 0, 11);
        for (int p = ao, bo = bs; p < ao + pc; p++, bo += L) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            c0 = FloatVector.broadcast(Lanes.F, a[p]).fma(b0, c0);
            c1 = FloatVector.broadcast(Lanes.F, a[p + KC]).fma(b0, c1);
            c2 = FloatVector.broadcast(Lanes.F, a[p + 2 * KC]).fma(b0, c2);
            c3 = FloatVector.broadcast(Lanes.F, a[p + 3 * KC]).fma(b0, c3);
            c4 = FloatVector.broadcast(Lanes.F, a[p + 4 * KC]).fma(b0, c4);
            c5 = FloatVector.broadcast(Lanes.F, a[p + 5 * KC]).fma(b0, c5);
            c6 = FloatVector.broadcast(Lanes.F, a[p + 6 * KC]).fma(b0, c6);
            c7 = FloatVector.broadcast(Lanes.F, a[p + 7 * KC]).fma(b0, c7);
            c8 = FloatVector.broadcast(Lanes.F, a[p + 8 * KC]).fma(b0, c8);
            c9 = FloatVector.broadcast(Lanes.F, a[p + 9 * KC]).fma(b0, c9);
            c10 = FloatVector.broadcast(Lanes.F, a[p + 10 * KC]).fma(b0, c10);
            c11 = FloatVector.broadcast(Lanes.F, a[p + 11 * KC]).fma(b0, c11);
        }
        store(c, 0, c0, c1, c2, c3);
        store(c, 4 * L, c4, c5, c6, c7);
        store(c, 8 * L, c8, c9, c10, c11);
    }

    /** {@code c[co + r * 2 * L + j] += Σ a[ao + r * KC + p]·b[bs + p * 2 * L + j]} for six rows. */
    private static void twoVectors(float[] a, int ao, float[] b, int bs, int pc, float[] c, int co) {
        FloatVector c00 = load(c, co, 0), c01 = load(c, co, 1), c10 = load(c, co, 2), c11 = load(c, co, 3);
        FloatVector c20 = load(c, co, 4), c21 = load(c, co, 5), c30 = load(c, co, 6), c31 = load(c, co, 7);
        FloatVector c40 = load(c, co, 8), c41 = load(c, co, 9), c50 = load(c, co, 10), c51 = load(c, co, 11);
        for (int p = ao, bo = bs; p < ao + pc; p++, bo += 2 * L) {
            FloatVector b0 = FloatVector.fromArray(Lanes.F, b, bo);
            FloatVector b1 = FloatVector.fromArray(Lanes.F, b, bo + L);
            FloatVector x = FloatVector.broadcast(Lanes.F, a[p]);
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(Lanes.F, a[p + KC]);
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(Lanes.F, a[p + 2 * KC]);
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(Lanes.F, a[p + 3 * KC]);
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(Lanes.F, a[p + 4 * KC]);
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(Lanes.F, a[p + 5 * KC]);
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
        }
        store(c, co, c00, c01, c10, c11);
        store(c, co + 4 * L, c20, c21, c30, c31);
        store(c, co + 8 * L, c40, c41, c50, c51);
    }

    private static FloatVector load(float[] c, int at, int vector) {
        return FloatVector.fromArray(Lanes.F, c, at + vector * L);
    }

    private static void store(float[] c, int at, FloatVector v0, FloatVector v1, FloatVector v2, FloatVector v3) {
        v0.intoArray(c, at);
        v1.intoArray(c, at + L);
        v2.intoArray(c, at + 2 * L);
        v3.intoArray(c, at + 3 * L);
    }
}
