package qlora4j.tensor;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * The one tiled product of the cpu backend: {@code C [m, n] = alpha·A [m, k]·B [k, n]}, or added to another matrix.
 *
 * <p>A is packed in pieces of {@link #KC} columns, so that the micro-kernel finds its rows at fixed distances. B comes from a {@link PanelSource} in panels of {@link #KC} rows and {@link #NC} columns: copied,
 * transposed, converted or dequantized as it is needed, small enough to stay in the first-level cache while the rows of
 * A pass by. The micro-kernel ({@link VectorGemmTile}) holds its tile of C in registers. A task of the team is a block
 * of rows and a few panels of columns; its piece of A and its sums stay in the second-level cache. Every element of C is
 * summed in the order of k by one task, so no result depends on the number of threads. Where A is very long in the
 * direction of k, as the head's gradient is, it is packed and multiplied part after part.
 *
 * <p>A may be several matrices side by side, and there may be several C, each with Bs of its own: a linear layer adds
 * its adapter so, and layers with one input share what is packed.
 */
public final class VectorGemm {
    /** Columns of a panel: two vectors. */
    public static final int NC = 2 * Lanes.L;
    /** Rows of a panel, and columns of a piece of A. */
    public static final int KC = 192;
    /** Floats of a panel. */
    public static final int PANEL = KC * NC;
    /** Most columns of {@link FewColumns}. */
    public static final int FEW_COLUMNS = VectorNarrow.COLUMNS;
    private static final int R = VectorGemmTile.R;
    /** Most rows of a task: its piece of A is 387 KiB. */
    private static final int MAX_ROWS = 86 * R;
    private static final int MIN_ROWS = 8 * R;
    /** Most columns of a task: its panels are 216 KiB, its sums 581. */
    public static final int MAX_COLUMNS = 288;
    private static final int MAX_PANELS = MAX_COLUMNS / NC;
    private static final int TASKS_PER_THREAD = 2;
    /** Rows whose sums over all of a task's columns, 12 KiB, are written before the next are computed; whole groups. */
    private static final int FEW_ROWS = 2 * R;
    /** A piece of so few rows of B: its panels are in the first-level cache together. */
    private static final int SHORT = KC / 6;
    /** Rows that are packed at a time. */
    private static final int PACKED_ROWS = 2 * MAX_ROWS;

    private final Team team;
    private final Scratch[] scratch;
    private final VectorPackedRows a;
    /** Sums of a result that is no float32, while not all of A has been packed. */
    private Tensor carried = Tensor.zeros(DType.F32, 0);

    /** One thread's memory. */
    private static final class Scratch {
        private final float[] panels = new float[MAX_COLUMNS * KC];
        private float[] sums = new float[0];
        private float[] column = new float[0];

        private float[] sums(int length) {
            if (sums.length < length) {
                sums = new float[length];
            }
            return sums;
        }

        private float[] column(int length) {
            if (column.length < length) {
                column = new float[length];
            }
            return column;
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

        /** Whether a panel is best filled by itself: it is in the first-level cache then, where it is read. */
        default boolean byPanels() {
            return false;
        }

        /** A source that writes column after column, and so gains nothing from many of them. */
        static PanelSource byPanels(PanelSource source) {
            return new PanelSource() {
                @Override
                public void fill(int p0, int pc, int j0, int jc, float[] panels, int worker) {
                    source.fill(p0, pc, j0, jc, panels, worker);
                }

                @Override
                public boolean byPanels() {
                    return true;
                }
            };
        }
    }

    /** Rows of a matrix in float32, made of other matrices as they are read. */
    public interface Rows {
        /** Gives elements {@code from .. from + n} of a row to {@code out[at …]}; any thread of the team may call. */
        void load(int row, int from, int n, float[] out, int at);
    }

    /**
     * A part of A.
     *
     * @param a [m, k], or [k, m] when {@code transposed}
     * @param rows what the part's rows are instead of a, of which only the shape counts then; null: a's own
     * @param alpha a factor; 1 where there are {@code few}
     * @param few products of the same rows with few columns, computed as they are packed; what they give may be a later
     *        part. Not of a transposed part
     */
    public record Part(Tensor a, Rows rows, boolean transposed, float alpha, List<FewColumns> few) {
        public Part(Tensor a, boolean transposed, float alpha, List<FewColumns> few) {
            this(a, null, transposed, alpha, few);
        }

        public Part(Tensor a, float alpha) {
            this(a, false, alpha, List.of());
        }

        int k() {
            return transposed ? a.rows() : a.cols();
        }
    }

    /**
     * {@code c = alpha·A·B} with at most {@link #FEW_COLUMNS} columns, A being a {@link Part}.
     *
     * @param b [k, n], or [n, k] when {@code transposed}
     * @param c [m, n], overwritten
     */
    public record FewColumns(Tensor b, boolean transposed, float alpha, Tensor c) {
    }

    /**
     * {@code C = base + Σ A·B} over the parts of A.
     *
     * @param c [m, n], or [n, m] when {@code transposed}
     * @param base like c, or c itself, or null
     * @param b of each part of A; null where that part is not for this result
     */
    public record Result(Tensor c, Tensor base, boolean transposed, PanelSource... b) {
        int n() {
            return transposed ? c.rows() : c.cols();
        }

        int panels() {
            return (n() + NC - 1) / NC;
        }
    }

    /** A task's block of a result: {@code count} rows from {@code i0} on, counted in the packed rows, and columns. */
    private record Block(Result result, int i0, int count, int j0, int columns) {
        int panels() {
            return (columns + NC - 1) / NC;
        }
    }

    /** A product engine with scratch memory of its own; one product at a time. */
    public VectorGemm(Team team) {
        this.team = team;
        this.a = new VectorPackedRows(team);
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    /**
     * {@code C = alpha·A·B} with A in memory.
     *
     * @param a [m, k], or [k, m] when {@code transposedA}
     * @param c [m, n]
     */
    void multiply(Tensor a, boolean transposedA, float alpha, PanelSource b, Tensor c, boolean accumulate) {
        multiply(List.of(new Part(a, transposedA, alpha, List.of())),
                List.of(new Result(c, accumulate ? c : null, false, b)));
    }

    /** The same with C transposed in memory: {@code c} is [n, m]. */
    void multiplyTransposed(Tensor a, boolean transposedA, float alpha, PanelSource b, Tensor c, boolean accumulate) {
        multiply(List.of(new Part(a, transposedA, alpha, List.of())),
                List.of(new Result(c, accumulate ? c : null, true, b)));
    }

    /** All results, of the same rows. */
    public synchronized void multiply(List<Part> parts, List<Result> results) {
        int m = results.getFirst().transposed ? results.getFirst().c.cols() : results.getFirst().c.rows();
        int panels = 0;
        for (Result r : results) {
            panels += r.panels();
        }
        if (m == 0 || panels == 0) {
            return;
        }
        for (int from = 0; from < m; from += PACKED_ROWS) {
            int count = Math.min(PACKED_ROWS, m - from);
            a.rewind();
            boolean more = true;
            for (boolean begun = false; more; begun = true) {
                more = a.pack(parts, from, count);
                if (begun || more) {
                    multiply(part(results, begun, more), panels, from, count, 1);
                } else {
                    multiply(results, panels, from, count, TASKS_PER_THREAD);
                }
            }
        }
    }

    /** The results of some columns of A: until the last of them the sums are float32. */
    private List<Result> part(List<Result> results, boolean begun, boolean more) {
        List<Result> step = new ArrayList<>();
        long at = 0;
        for (Result r : results) {
            Tensor sums = r.c;
            if (r.c.dtype() != DType.F32) {
                sums = carried(at, results).slice(at, r.c.shape());
                at += r.c.size();
            }
            step.add(new Result(more ? sums : r.c, begun ? sums : r.base, r.transposed, r.b));
        }
        return step;
    }

    private Tensor carried(long at, List<Result> results) {
        long size = results.stream().mapToLong(r -> r.c.size()).sum();
        if (at == 0 && carried.size() < size) {
            carried = Tensor.zeros(DType.F32, size);
        }
        return carried;
    }

    /**
     * What is packed times B.
     *
     * @param perThread how many tasks; few where each task reads all of a long A
     */
    private void multiply(List<Result> results, int panels, int from, int count, int perThread) {
        int rows = rowsPerTask(count, panels);
        int rowBlocks = (count + rows - 1) / rows;
        int wide = Math.clamp(Math.ceilDiv(panels * rowBlocks, perThread * team.size()), 1, MAX_PANELS);
        int blocks = 0;
        for (Result r : results) {
            blocks += (r.panels() + wide - 1) / wide;
        }
        int columnBlocks = blocks;
        team.run(rowBlocks * columnBlocks, (task, worker) -> {
            int i0 = task / columnBlocks * rows;
            block(block(results, task % columnBlocks, wide, i0, Math.min(rows, count - i0)), from, worker);
        });
    }

    /**
     * The {@code index}-th of all blocks of {@code wide} panels: the first of each result, then the second of each, so
     * that results with the same B read the same columns of it one after another.
     */
    private static Block block(List<Result> results, int index, int wide, int i0, int count) {
        int left = index;
        for (int panel = 0;; panel += wide) {
            for (int i = 0; i < results.size(); i++) {
                Result r = results.get(i);
                if (panel < r.panels() && left-- == 0) {
                    return new Block(r, i0, count, panel * NC, Math.min(wide * NC, r.n() - panel * NC));
                }
            }
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

    /** The pieces of k in their order; a short last one is added and the sums are written a few rows at a time. */
    private void block(Block block, int from, int worker) {
        Scratch own = scratch[worker];
        Result r = block.result;
        int last = a.pieces().size() - 1;
        while (last >= 0 && r.b[a.pieces().get(last).part()] == null) {
            last--;
        }
        int first = 0;
        while (first < last && r.b[a.pieces().get(first).part()] == null) {
            first++;
        }
        boolean byRows = !r.transposed && last >= 0 && (first == last || a.pieces().get(last).pc() <= SHORT);
        int stride = byRows && first == last ? FEW_ROWS * NC : roundUp(block.count, R) * NC;
        float[] sums = own.sums(block.panels() * stride);
        for (int q = first; q < (byRows ? last : last + 1); q++) {
            VectorPackedRows.Piece piece = a.pieces().get(q);
            if (r.b[piece.part()] != null) {
                piece(block, piece, r.b[piece.part()], sums, stride, q == first, worker);
            }
        }
        if (last < 0) {
            Arrays.fill(sums, 0, block.panels() * stride, 0f);
        }
        if (byRows) {
            lastPiece(block, from, a.pieces().get(last), sums, stride, first == last, worker);
        } else {
            write(sums, 0, stride, from, block, 0, block.count, own);
        }
    }

    /** Adds a piece's product for all of the block's rows to their sums, which begin with the first. */
    private void piece(Block block, VectorPackedRows.Piece piece, PanelSource b, float[] sums, int stride,
            boolean first, int worker) {
        Scratch own = scratch[worker];
        if (!b.byPanels()) {
            b.fill(piece.p0(), piece.pc(), block.j0, block.columns, own.panels, worker);
            tiles(piece, block, 0, block.count, sums, 0, stride, first, own);
            return;
        }
        for (int j = 0; j < block.columns; j += NC) {
            b.fill(piece.p0(), piece.pc(), block.j0 + j, Math.min(NC, block.columns - j), own.panels, worker);
            VectorGemmTile.rows(a.packed(), piece.row(block.i0), own.panels, 0, piece.pc(), sums, j / NC * stride,
                    roundUp(block.count, R), first);
        }
    }

    /** While the sums of these rows are in the first-level cache they are written. */
    private void lastPiece(Block block, int from, VectorPackedRows.Piece piece, float[] sums, int stride, boolean only,
            int worker) {
        Scratch own = scratch[worker];
        block.result.b[piece.part()].fill(piece.p0(), piece.pc(), block.j0, block.columns, own.panels, worker);
        for (int i = 0; i < block.count; i += FEW_ROWS) {
            int count = Math.min(FEW_ROWS, block.count - i);
            int at = only ? 0 : i * NC;
            tiles(piece, block, i, count, sums, at, stride, only, own);
            write(sums, at, stride, from, block, i, count, own);
        }
    }

    /** A piece's product for {@code count} of the block's rows from i on; a panel's sums begin at {@code at}. */
    private void tiles(VectorPackedRows.Piece piece, Block block, int i, int count, float[] sums, int at, int stride,
            boolean first, Scratch own) {
        for (int v = 0; v < block.panels(); v++) {
            VectorGemmTile.rows(a.packed(), piece.row(block.i0 + i), own.panels, v * PANEL, piece.pc(), sums,
                    at + v * stride, roundUp(count, R), first);
        }
    }

    /** Writes the sums of {@code count} of a block's rows, from i on, to C, where packed rows begin at {@code from}. */
    private static void write(float[] sums, int begin, int stride, int from, Block block, int i0, int count,
            Scratch own) {
        int columns = block.columns;
        int row = from + block.i0 + i0;
        Tensor c = block.result.c;
        Tensor base = block.result.base;
        if (block.result.transposed) {
            float[] column = own.column(count);
            for (int j = 0; j < columns; j++) {
                int at = begin + j / NC * stride + j % NC;
                for (int i = 0; i < count; i++) {
                    column[i] = sums[at + i * NC];
                }
                store(column, 0, count, base, c, (long) (block.j0 + j) * c.cols() + row);
            }
            return;
        }
        boolean floats = c.dtype() == DType.F32 && (base == null || base.dtype() == DType.F32);
        int whole = floats ? columns / NC * NC : 0;
        for (int i = 0; i < count; i++) {
            long to = (long) (row + i) * c.cols() + block.j0;
            if (base != null) {
                Lanes.addStrided(sums, begin + i * NC, NC, stride, whole, base.data(), c.data(), 4 * to);
            } else {
                Lanes.storeStrided(sums, begin + i * NC, NC, stride, whole, c.data(), 4 * to);
            }
            for (int j = whole; j < columns; j += NC) {
                store(sums, begin + j / NC * stride + i * NC, Math.min(NC, columns - j), base, c, to + j);
            }
        }
    }

    private static void store(float[] sums, int at, int n, Tensor base, Tensor c, long to) {
        if (base != null) {
            Floats.add(base, to, n, sums, at);
        }
        Floats.store(sums, at, n, c, to);
    }
}
