package qlora4j.tensor;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;

/**
 * The one tiled product of the cpu backend: {@code C [m, n] = alpha·A [m, k]·B [k, n]}, or added to C.
 *
 * <p>A is packed once into tiles of {@link #R} rows, so that the micro-kernel broadcasts its elements from consecutive
 * memory. B comes from a {@link PanelSource} in panels of {@link #KC} rows and {@link #NC} columns: copied, transposed,
 * converted or dequantized as it is needed, small enough to stay in the first-level cache while all rows of A pass by.
 * The micro-kernel holds R x 2 vectors of C in registers. A task of the team is one block of rows and one panel of
 * columns; every element of C is summed in the order of k by one task, so no result depends on the number of threads.
 */
public final class VectorGemm {
    /** Rows of a tile. */
    public static final int R = 6;
    /** Columns of a panel: two vectors. */
    public static final int NC = 2 * Lanes.L;
    /** Rows of a panel. */
    public static final int KC = 256;
    private static final int MAX_ROWS = 170 * R;
    private static final int MIN_ROWS = 8 * R;
    private static final int TASKS_PER_THREAD = 4;

    private final Team team;
    private float[] packed = new float[0];
    private final float[][] panels;
    private final float[][] sums;

    /** Delivers panels of B. */
    public interface PanelSource {
        /**
         * Writes {@code B[p0 + p][j0 + j]} to {@code panel[p * ld + j]} for p &lt; pc and j &lt; jc. What lies
         * beyond jc in a row of the panel need not be written.
         *
         * @param worker which thread of the team calls, for scratch memory of the source's own
         */
        void fill(int p0, int pc, int j0, int jc, float[] panel, int ld, int worker);
    }

    /** A product engine with scratch memory of its own; one product at a time. */
    public VectorGemm(Team team) {
        this.team = team;
        this.panels = new float[team.size()][KC * NC];
        this.sums = new float[team.size()][];
    }

    /**
     * {@code C = alpha·A·B} with A in memory.
     *
     * @param a [m, k], or [k, m] when {@code transposedA}
     * @param c [m, n]
     */
    public synchronized void multiply(Tensor a, boolean transposedA, float alpha, PanelSource b, int k, Tensor c,
            boolean accumulate) {
        int m = c.rows();
        int n = c.cols();
        if (m == 0 || n == 0) {
            return;
        }
        int columnPanels = (n + NC - 1) / NC;
        int rows = rowsPerTask(m, columnPanels);
        for (int from = 0; from < m; from += MAX_ROWS) {
            int count = Math.min(MAX_ROWS, m - from);
            pack(a, transposedA, alpha, k, from, count);
            int rowBlocks = (count + rows - 1) / rows;
            int first = from;
            team.run(rowBlocks * columnPanels, (task, worker) -> {
                int i0 = task / columnPanels * rows;
                block(b, k, i0, Math.min(rows, count - i0), first + i0, task % columnPanels * NC, c, accumulate,
                        worker);
            });
        }
    }

    private int rowsPerTask(int m, int columnPanels) {
        int wanted = team.size() == 1 ? 1 : TASKS_PER_THREAD * team.size();
        int blocks = Math.max(1, (wanted + columnPanels - 1) / columnPanels);
        int rows = (m + blocks - 1) / blocks;
        return Math.clamp((rows + R - 1) / R * R, MIN_ROWS, MAX_ROWS);
    }

    /** packed[(tile * k + p) * R + r] = alpha * A[from + tile * R + r][p], zero beyond the last row. */
    private void pack(Tensor a, boolean transposed, float alpha, int k, int from, int count) {
        int tiles = (count + R - 1) / R;
        int needed = Math.multiplyExact(tiles * R, k);
        if (packed.length < needed) {
            packed = new float[needed];
        }
        float[] out = packed;
        team.run(tiles, (tile, worker) -> {
            int valid = Math.min(R, count - tile * R);
            int base = tile * R * k;
            float[] row = sums(worker, Math.max(k, R));
            if (transposed) {
                int m = a.cols();
                for (int p = 0; p < k; p++) {
                    Floats.load(a, (long) p * m + from + tile * R, valid, row, 0);
                    for (int r = 0; r < R; r++) {
                        out[base + p * R + r] = r < valid ? alpha * row[r] : 0;
                    }
                }
                return;
            }
            for (int r = 0; r < R; r++) {
                if (r < valid) {
                    Floats.load(a, (long) (from + tile * R + r) * k, k, row, 0);
                } else {
                    Arrays.fill(row, 0, k, 0f);
                }
                for (int p = 0; p < k; p++) {
                    out[base + p * R + r] = alpha * row[p];
                }
            }
        });
    }

    private float[] sums(int worker, int length) {
        if (sums[worker] == null || sums[worker].length < length) {
            sums[worker] = new float[Math.max(length, MIN_ROWS * NC)];
        }
        return sums[worker];
    }

    /** Rows {@code i0 …} of the packed block times one panel column of B, written to C from row {@code c0}. */
    private void block(PanelSource b, int k, int i0, int count, int c0, int j0, Tensor c, boolean accumulate,
            int worker) {
        int n = c.cols();
        int jc = Math.min(NC, n - j0);
        int tiles = (count + R - 1) / R;
        float[] panel = panels[worker];
        float[] sum = sums(worker, tiles * R * NC);
        Arrays.fill(sum, 0, tiles * R * NC, 0f);
        if (jc < NC) {
            Arrays.fill(panel, 0f);
        }
        for (int p0 = 0; p0 < k; p0 += KC) {
            int pc = Math.min(KC, k - p0);
            b.fill(p0, pc, j0, jc, panel, NC, worker);
            for (int t = 0; t < tiles; t++) {
                tile(packed, ((i0 / R + t) * k + p0) * R, panel, pc, sum, t * R * NC);
            }
        }
        for (int i = 0; i < count; i++) {
            write(sum, i * NC, jc, c, (long) (c0 + i) * n + j0, accumulate);
        }
    }

    private static void write(float[] sum, int at, int jc, Tensor c, long to, boolean accumulate) {
        if (accumulate) {
            Floats.add(c, to, jc, sum, at);
        }
        Floats.store(sum, at, jc, c, to);
    }

    /** The micro-kernel: C tile (R rows, two vectors) += A tile (pc columns of R) times panel (pc rows). */
    private static void tile(float[] a, int ao, float[] b, int pc, float[] c, int co) {
        FloatVector c00 = load(c, co, 0, 0), c01 = load(c, co, 0, 1);
        FloatVector c10 = load(c, co, 1, 0), c11 = load(c, co, 1, 1);
        FloatVector c20 = load(c, co, 2, 0), c21 = load(c, co, 2, 1);
        FloatVector c30 = load(c, co, 3, 0), c31 = load(c, co, 3, 1);
        FloatVector c40 = load(c, co, 4, 0), c41 = load(c, co, 4, 1);
        FloatVector c50 = load(c, co, 5, 0), c51 = load(c, co, 5, 1);
        for (int p = 0, at = ao, bo = 0; p < pc; p++, at += R, bo += NC) {
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

    private static FloatVector load(float[] c, int co, int r, int v) {
        return FloatVector.fromArray(Lanes.F, c, co + r * NC + v * Lanes.L);
    }

    private static void store(FloatVector v0, FloatVector v1, float[] c, int co, int r) {
        v0.intoArray(c, co + r * NC);
        v1.intoArray(c, co + r * NC + Lanes.L);
    }
}
