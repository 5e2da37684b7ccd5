package qlora4j.tensor;

import java.util.Arrays;

/**
 * The one tiled product of the cpu backend: {@code C [m, n] = alpha·A [m, k]·B [k, n]}, or added to C.
 *
 * <p>A is packed in pieces of {@link #KC} columns and groups of a few rows, so that the micro-kernel reads it straight
 * through. B comes from a {@link PanelSource} in panels of {@link #KC} rows and {@link #NC} columns: copied,
 * transposed, converted or dequantized as it is needed, small enough to stay in the first-level cache while the rows of
 * A pass by. The micro-kernel ({@link VectorGemmTile}) holds its tile of C in registers. A task of the team is a block
 * of rows and a few panels of columns; its piece of A and its sums stay in the second-level cache. Every element of C is
 * summed in the order of k by one task, so no result depends on the number of threads.
 */
public final class VectorGemm {
    /** Columns of a panel: two vectors. */
    public static final int NC = 2 * Lanes.L;
    /** Rows of a panel, and columns of a piece of A. */
    public static final int KC = 192;
    /** Floats of a panel. */
    public static final int PANEL = KC * NC;
    private static final int R = VectorGemmTile.R;
    private static final int GROUP = VectorGemmTile.GROUP;
    private static final int GROUP_FLOATS = VectorGemmTile.GROUP_FLOATS;
    /** Most rows of a task: its piece of A is 387 KiB. */
    private static final int MAX_ROWS = 86 * R;
    private static final int MIN_ROWS = 8 * R;
    /** Rows that a task packs: whole groups at every width. */
    private static final int STRIP = 8 * R;
    /** Most columns of a task: its panels are 192 KiB, its sums 516. */
    public static final int MAX_COLUMNS = 256;
    private static final int MAX_PANELS = MAX_COLUMNS / NC;
    private static final int TASKS_PER_THREAD = 3;
    /** Rows whose sums over all of a task's columns, 12 KiB, are written before the next are computed; whole groups. */
    private static final int FEW_ROWS = 2 * R;
    /** Rows that are packed at a time. */
    private static final int PACKED_ROWS = 2 * MAX_ROWS;

    private final Team team;
    private final Scratch[] scratch;
    private float[] packed = new float[0];

    /** One thread's memory. */
    private static final class Scratch {
        private final float[] panels = new float[MAX_COLUMNS * KC];
        private final VectorTranspose transpose = new VectorTranspose();
        private float[] sums = new float[0];
        private float[] rows = new float[0];

        private float[] sums(int length) {
            if (sums.length < length) {
                sums = new float[length];
            }
            return sums;
        }

        private float[] rows(int length) {
            if (rows.length < length) {
                rows = new float[length];
            }
            return rows;
        }
    }

    /** Delivers panels of B. */
    public interface PanelSource {
        /**
         * Delivers {@code B[p0 + p][j0 + j]} for p &lt; pc and j &lt; jc, at most {@link #MAX_COLUMNS} columns: to
         * {@code panels[j / NC * PANEL + p * NC + j % NC]}. What lies beyond jc in a row of the last panel, and in the
         * rows beyond pc, may be anything.
         *
         * @param worker which thread of the team calls, for scratch memory of the source's own
         */
        void fill(int p0, int pc, int j0, int jc, float[] panels, int worker);
    }

    /** Where C goes: {@code c} is [m, n], or [n, m] when {@code transposed}. */
    private record Target(Tensor c, boolean transposed, boolean accumulate) {
    }

    /** A task's block of C: {@code count} rows from {@code i0} on, counted in the packed rows, and columns. */
    private record Block(int i0, int count, int j0, int columns) {
        /** Floats of a panel's sums. */
        int stride() {
            return roundUp(count, R) * NC;
        }

        int panels() {
            return (columns + NC - 1) / NC;
        }
    }

    /** A product engine with scratch memory of its own; one product at a time. */
    public VectorGemm(Team team) {
        this.team = team;
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    /**
     * {@code C = alpha·A·B} with A in memory.
     *
     * @param a [m, k], or [k, m] when {@code transposedA}
     * @param c [m, n]
     */
    public void multiply(Tensor a, boolean transposedA, float alpha, PanelSource b, int k, Tensor c,
            boolean accumulate) {
        multiply(a, transposedA, alpha, b, k, c.rows(), c.cols(), new Target(c, false, accumulate));
    }

    /** The same with C transposed in memory: {@code c} is [n, m]. */
    public void multiplyTransposed(Tensor a, boolean transposedA, float alpha, PanelSource b, int k, Tensor c,
            boolean accumulate) {
        multiply(a, transposedA, alpha, b, k, c.cols(), c.rows(), new Target(c, true, accumulate));
    }

    private synchronized void multiply(Tensor a, boolean transposedA, float alpha, PanelSource b, int k, int m, int n,
            Target target) {
        if (m == 0 || n == 0) {
            return;
        }
        int panels = (n + NC - 1) / NC;
        for (int first = 0; first < m; first += PACKED_ROWS) {
            int from = first;
            int count = Math.min(PACKED_ROWS, m - from);
            pack(a, transposedA, alpha, k, from, count);
            int rows = rowsPerTask(count, panels);
            int rowBlocks = (count + rows - 1) / rows;
            int wide = Math.clamp(panels * rowBlocks / (TASKS_PER_THREAD * team.size()), 1, MAX_PANELS);
            int columnBlocks = (panels + wide - 1) / wide;
            team.run(rowBlocks * columnBlocks, (task, worker) -> {
                int i0 = task / columnBlocks * rows;
                int j0 = task % columnBlocks * wide * NC;
                Block block = new Block(i0, Math.min(rows, count - i0), j0, Math.min(wide * NC, n - j0));
                if (k <= KC && !target.transposed) {
                    onePiece(b, k, block, count, from, target, worker);
                } else {
                    write(sums(b, k, block, count, worker), from, block, target, scratch[worker]);
                }
            });
        }
    }

    private int rowsPerTask(int m, int panels) {
        int wanted = team.size() == 1 ? 1 : TASKS_PER_THREAD * team.size();
        int blocks = Math.max((m + MAX_ROWS - 1) / MAX_ROWS, (wanted + panels - 1) / panels);
        int rows = (m + blocks - 1) / blocks;
        return Math.clamp(roundUp(rows, 2 * R), MIN_ROWS, MAX_ROWS);
    }

    private static int roundUp(int n, int step) {
        return (n + step - 1) / step * step;
    }

    /**
     * Piece c of A, its columns from {@code p0 = c * KC} on, times alpha, in groups of {@link VectorGemmTile#GROUP}
     * rows that lie side by side as {@link VectorGemmTile#rows} reads them; zero in the last group's rows beyond
     * {@code count}. A strip is packed by one task.
     */
    private void pack(Tensor a, boolean transposed, float alpha, int k, int from, int count) {
        int strips = (count + STRIP - 1) / STRIP;
        int pieces = (k + KC - 1) / KC;
        int needed = Math.multiplyExact(Math.multiplyExact(strips * (STRIP / GROUP), pieces), GROUP_FLOATS);
        if (packed.length < needed) {
            packed = new float[needed];
        }
        float[] out = packed;
        team.run(pieces * strips, (task, worker) -> {
            Scratch own = scratch[worker];
            int p0 = task / strips * KC;
            int pc = Math.min(KC, k - p0);
            int i0 = task % strips * STRIP;
            int end = Math.min(i0 + STRIP, count);
            int at = group(task / strips, i0, count);
            if (transposed) {
                packTransposed(a, from + i0, end - i0, p0, pc, alpha, out, at, own);
                return;
            }
            for (int i = i0; i < end; i += GROUP, at += GROUP_FLOATS) {
                packRows(a, from + i, Math.min(GROUP, end - i), p0, pc, alpha, out, at, own);
            }
        });
    }

    /** Where the group of row i begins in a piece of {@code count} rows. */
    private static int group(int piece, int i, int count) {
        return (piece * roundUp(count, STRIP) + i) / GROUP * GROUP_FLOATS;
    }

    /** A group of rows becomes columns; blocks of the transposition that write over a line's end are overwritten. */
    private static void packRows(Tensor a, int row, int n, int p0, int pc, float alpha, float[] out, int at,
            Scratch own) {
        float[] rows = own.rows(roundUp(GROUP, Lanes.L) * KC);
        for (int i = 0; i < n; i++) {
            Floats.load(a, (long) (row + i) * a.cols() + p0, pc, rows, i * KC);
            scale(rows, i * KC, pc, alpha);
        }
        Arrays.fill(rows, n * KC, GROUP * KC, 0f);
        own.transpose.run(rows, 0, KC, GROUP, pc, out, at, GROUP);
    }

    private static void packTransposed(Tensor a, int i0, int n, int p0, int pc, float alpha, float[] out, int at,
            Scratch own) {
        int length = STRIP + Lanes.L;
        float[] row = own.rows(length);
        Arrays.fill(row, n, length, 0f);
        for (int p = 0; p < pc; p++) {
            Floats.load(a, (long) (p0 + p) * a.cols() + i0, n, row, 0);
            scale(row, 0, n, alpha);
            for (int i = 0, to = at + p * GROUP; i < n; i += GROUP, to += GROUP_FLOATS) {
                Lanes.copyOver(row, i, GROUP, out, to);
            }
        }
    }

    private static void scale(float[] x, int at, int n, float alpha) {
        if (alpha != 1) {
            for (int i = at; i < at + n; i++) {
                x[i] *= alpha;
            }
        }
    }

    /** Sums of a block by panels. */
    private float[] sums(PanelSource b, int k, Block block, int packedRows, int worker) {
        Scratch own = scratch[worker];
        int stride = block.stride();
        float[] sums = own.sums(block.panels() * stride);
        Arrays.fill(sums, 0, block.panels() * stride, 0f);
        for (int p0 = 0; p0 < k; p0 += KC) {
            int pc = Math.min(KC, k - p0);
            b.fill(p0, pc, block.j0, block.columns, own.panels, worker);
            tiles(group(p0 / KC, block.i0, packedRows), pc, block, own, sums);
        }
        return sums;
    }

    /** A short product's sums are written a few rows at a time, out of the first-level cache. */
    private void onePiece(PanelSource b, int k, Block block, int packedRows, int from, Target target, int worker) {
        Scratch own = scratch[worker];
        b.fill(0, k, block.j0, block.columns, own.panels, worker);
        float[] sums = own.sums(block.panels() * FEW_ROWS * NC);
        for (int i = 0; i < block.count; i += FEW_ROWS) {
            Block few = new Block(block.i0 + i, Math.min(FEW_ROWS, block.count - i), block.j0, block.columns);
            Arrays.fill(sums, 0, few.panels() * few.stride(), 0f);
            tiles(group(0, few.i0, packedRows), k, few, own, sums);
            write(sums, from, few, target, own);
        }
    }

    private void tiles(int a, int pc, Block block, Scratch own, float[] sums) {
        int stride = block.stride();
        for (int v = 0; v < block.panels(); v++) {
            VectorGemmTile.rows(packed, a, own.panels, v * PANEL, pc, sums, v * stride, stride / NC);
        }
    }

    /** Writes a block's sums to C, where its rows begin at row {@code from}. */
    private static void write(float[] sums, int from, Block block, Target target, Scratch own) {
        int stride = block.stride();
        int count = block.count;
        int columns = block.columns;
        int row = from + block.i0;
        Tensor c = target.c;
        if (target.transposed) {
            float[] column = own.rows(count);
            for (int j = 0; j < columns; j++) {
                int at = j / NC * stride + j % NC;
                for (int i = 0; i < count; i++) {
                    column[i] = sums[at + i * NC];
                }
                store(column, 0, count, c, (long) (block.j0 + j) * c.cols() + row, target.accumulate);
            }
            return;
        }
        int whole = c.dtype() == DType.F32 ? columns / NC * NC : 0;
        for (int i = 0; i < count; i++) {
            long to = (long) (row + i) * c.cols() + block.j0;
            if (target.accumulate) {
                Lanes.addStrided(sums, i * NC, NC, stride, whole, c.data(), 4 * to);
            } else {
                Lanes.storeStrided(sums, i * NC, NC, stride, whole, c.data(), 4 * to);
            }
            for (int j = whole; j < columns; j += NC) {
                store(sums, j / NC * stride + i * NC, Math.min(NC, columns - j), c, to + j, target.accumulate);
            }
        }
    }

    private static void store(float[] sums, int at, int n, Tensor c, long to, boolean accumulate) {
        if (accumulate) {
            Floats.addTo(sums, at, n, c, to);
        } else {
            Floats.store(sums, at, n, c, to);
        }
    }
}
