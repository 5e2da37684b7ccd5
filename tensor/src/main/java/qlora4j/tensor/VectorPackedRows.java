package qlora4j.tensor;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * The left side of a {@link VectorGemm} product, packed: its parts lie side by side in the direction of k and are cut
 * into pieces of {@link VectorGemm#KC} columns; in a piece rows lie one behind the other, KC floats each, so that
 * {@link VectorGemmTile} reads all of a task's rows in one stretch of memory, at fixed distances. What is to be multiplied
 * with a few columns too is, while its rows pass by, so that they are read once.
 */
final class VectorPackedRows {
    private static final int KC = VectorGemm.KC;
    /** Rows that are read together: whole tiles. */
    private static final int ROWS = VectorNarrow.ROWS;
    /** Rows that a task packs: whole tiles, and whole vectors, at every width. */
    private static final int STRIP = 4 * ROWS;
    /** Floats that are packed at once, 12 MiB, unless there are products with few columns. */
    private static final int MOST = 3 << 20;
    /** Pieces that are packed at a time where all are more: what 384 rows of them take, 2.3 MiB, stays in a cache. */
    private static final int PIECES = 8;

    private final Team team;
    private final Scratch[] scratch;
    private final VectorNarrow.Scratch[] narrowScratch;
    private final float[][][] narrowSums;
    private final List<VectorNarrow.Columns> columns = new ArrayList<>();
    private final List<Piece> pieces = new ArrayList<>();
    private float[] packed = new float[0];
    /** The part and its column up to which A is packed. */
    private int part;
    private int column;

    /**
     * Columns {@code p0 .. p0 + pc} of a part.
     *
     * @param at where the first row lies
     */
    record Piece(int part, int p0, int pc, int at) {
        /** Where row i begins. */
        int row(int i) {
            return at + i * KC;
        }
    }

    /** One thread's memory: columns of a transposed part, {@link #STRIP} rows side by side. */
    private static final class Scratch {
        private float[] columns = new float[0];
        private final VectorTranspose transpose = new VectorTranspose();

        private float[] columns() {
            if (columns.length == 0) {
                columns = new float[KC * STRIP];
            }
            return columns;
        }
    }

    VectorPackedRows(Team team) {
        this.team = team;
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
        this.narrowScratch = VectorNarrow.Scratch.of(team);
        this.narrowSums = new float[team.size()][0][];
    }

    /** The pieces of what was packed last, in the order of k. */
    List<Piece> pieces() {
        return pieces;
    }

    float[] packed() {
        return packed;
    }

    /** Begins with the first piece again. */
    void rewind() {
        part = 0;
        column = 0;
    }

    /**
     * Packs the next pieces of rows {@code from .. from + count}, those rows up to a whole strip as zeros.
     *
     * @return whether there are more pieces
     */
    boolean pack(List<VectorGemm.Part> parts, int from, int count) {
        boolean narrow = false;
        for (VectorGemm.Part p : parts) {
            narrow |= !p.few().isEmpty();
        }
        cut(parts, count, narrow);
        int strips = (count + STRIP - 1) / STRIP;
        if (narrow) {
            if (from == 0) {
                packColumns(parts);
            }
            // A part may be what the one before it has given, so a task packs all parts of its rows.
            team.run(strips, (strip, worker) -> strip(parts, from, count, strip * STRIP, 0, pieces.size(), worker));
        } else {
            team.run(pieces.size() * strips, (task, worker) -> strip(parts, from, count, task % strips * STRIP,
                    task / strips, task / strips + 1, worker));
        }
        return part < parts.size();
    }

    /** All of them in one loop, as each is small. */
    private void packColumns(List<VectorGemm.Part> parts) {
        int slots = 0;
        int most = 0;
        for (VectorGemm.Part p : parts) {
            for (VectorGemm.FewColumns few : p.few()) {
                if (slots == columns.size()) {
                    columns.add(new VectorNarrow.Columns());
                }
                most = Math.max(most, columns.get(slots++).begin(few));
            }
        }
        int each = most;
        team.run(slots * each, (task, worker) -> columns.get(task / each).pack(task % each, narrowScratch[worker]));
    }

    /** The next pieces, or all; short parts lie side by side. */
    private void cut(List<VectorGemm.Part> parts, int count, boolean all) {
        pieces.clear();
        int size = Math.multiplyExact(roundUp(count, STRIP), KC);
        long whole = 0;
        for (VectorGemm.Part p : parts) {
            whole += (long) Math.ceilDiv(p.k(), KC) * size;
        }
        long most = all || whole <= MOST ? whole : (long) PIECES * size;
        int end = 0;
        int used = KC;
        for (; part < parts.size(); part++, column = 0) {
            VectorGemm.Part p = parts.get(part);
            for (; column < p.k(); column += KC) {
                int pc = Math.min(KC, p.k() - column);
                if (used + pc > KC || p.transposed()) {
                    if ((long) end + size > most) {
                        grow(end);
                        return;
                    }
                    used = 0;
                    end = Math.addExact(end, size);
                }
                pieces.add(new Piece(part, column, pc, end - size + used));
                used += pc;
            }
        }
        grow(end);
    }

    private void grow(int length) {
        if (packed.length < length) {
            packed = new float[length];
        }
    }

    private static int roundUp(int n, int step) {
        return (n + step - 1) / step * step;
    }

    /** Pieces {@code first .. end} of a strip of rows from i0 on. */
    private void strip(List<VectorGemm.Part> parts, int from, int count, int i0, int first, int end, int worker) {
        int rows = Math.min(STRIP, count - i0);
        int slot = 0;
        int next = 0;
        for (int piece = first; piece < end; piece = next) {
            int part = pieces.get(piece).part;
            next = piece + 1;
            while (next < end && pieces.get(next).part == part) {
                next++;
            }
            VectorGemm.Part p = parts.get(part);
            if (p.transposed()) {
                for (int q = piece; q < next; q++) {
                    packTransposed(p, from + i0, rows, pieces.get(q), i0, scratch[worker]);
                }
            } else {
                for (int i = 0; i < rows; i += ROWS) {
                    packRows(p, from + i0 + i, Math.min(ROWS, rows - i), i0 + i, piece, next, slot, worker);
                }
                slot += p.few().size();
            }
        }
    }

    /** At most {@link #ROWS} rows of A from {@code row} on, which are rows {@code to …} of what is packed. */
    private void packRows(VectorGemm.Part part, int row, int n, int to, int first, int end, int slot, int worker) {
        Tensor a = part.a();
        int few = part.few().size();
        float[][] sums = sums(worker, few);
        // A row to its end, which is read ahead of use, before the next.
        for (int r = 0; r < n; r++) {
            for (int q = first; q < end; q++) {
                Piece piece = pieces.get(q);
                if (part.rows() != null) {
                    part.rows().load(row + r, piece.p0, piece.pc, packed, piece.row(to + r));
                } else {
                    Floats.load(a, (long) (row + r) * a.cols() + piece.p0, piece.pc, packed, piece.row(to + r));
                }
                scale(packed, piece.row(to + r), piece.pc, part.alpha());
            }
        }
        for (int q = first; q < end; q++) {
            Piece piece = pieces.get(q);
            for (int r = n; r < ROWS; r++) {
                Arrays.fill(packed, piece.row(to + r), piece.row(to + r) + piece.pc, 0f);
            }
            for (int c = 0; c < few; c++) {
                columns.get(slot + c).addTo(sums[c], packed, piece.row(to), piece.p0, piece.pc);
            }
        }
        for (int c = 0; c < few; c++) {
            columns.get(slot + c).write(sums[c], n, part.few().get(c).c(), row, false);
        }
    }

    private float[][] sums(int worker, int few) {
        int had = narrowSums[worker].length;
        if (had < few) {
            narrowSums[worker] = Arrays.copyOf(narrowSums[worker], few);
            for (int i = had; i < few; i++) {
                narrowSums[worker][i] = new float[VectorNarrow.SUMS];
            }
        }
        for (int i = 0; i < few; i++) {
            Arrays.fill(narrowSums[worker][i], 0f);
        }
        return narrowSums[worker];
    }

    /** {@code n} rows of A that lie as columns, from {@code row} on; they are rows {@code to …} of what is packed. */
    private void packTransposed(VectorGemm.Part part, int row, int n, Piece piece, int to, Scratch own) {
        Tensor a = part.a();
        float[] columns = own.columns();
        for (int p = 0; p < piece.pc; p++) {
            Floats.load(a, (long) (piece.p0 + p) * a.cols() + row, n, columns, p * STRIP);
            Arrays.fill(columns, p * STRIP + n, (p + 1) * STRIP, 0f);
            scale(columns, p * STRIP, n, part.alpha());
        }
        own.transpose.run(columns, 0, STRIP, piece.pc, roundUp(n, ROWS), packed, piece.row(to), KC);
    }

    private static void scale(float[] x, int at, int n, float alpha) {
        if (alpha != 1) {
            for (int i = at; i < at + n; i++) {
                x[i] *= alpha;
            }
        }
    }
}
