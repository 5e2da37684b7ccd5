package qlora4j.blockwise;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorMatmul;

/**
 * {@code y = x · dequant(W)ᵀ} for a few rows of x, as in decoding: each row of W is read once, straight through.
 *
 * <p>Where rows begin with a block and the product is in float32, codes are never expanded: a lane holds a 32-bit word,
 * eight consecutive codes, and x is reordered once into eight planes so that plane q holds what nibble q of each word
 * is multiplied with. Within a word the codebook's values are summed before the block's constant is applied.
 */
final class VectorFewRows {
    private static final int L = Lanes.L;
    /** Up to this many rows of x this is faster than panels; at four lanes looking up a code costs more. */
    static final int MAX = L == 4 ? 2 : 4;

    private static final int WORD = 8;
    private static final int ROWS_PER_TASK = 64;
    /** Rows of W that share a pass over x. */
    private static final int SHARED = 4;

    private final Team team;
    private final float[][] rows;
    private final Scratch[] scratch;
    private float[] planes = new float[0];

    /** One thread's {@link #SHARED} rows of W: words of codes (as floats, whose bits are all that counts), constants, and sums. */
    private static final class Scratch {
        private float[] words = new float[0];
        private float[] scales = new float[0];
        private final float[] sums = new float[SHARED];

        private void grow(int wordCount, int scaleCount) {
            if (words.length < wordCount) {
                words = new float[wordCount];
            }
            if (scales.length < scaleCount) {
                scales = new float[scaleCount];
            }
        }
    }

    VectorFewRows(Team team) {
        this.team = team;
        this.rows = new float[team.size()][0];
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    synchronized void matmul(Tensor x, QuantizedTensor w, VectorCodec codec, VectorPanels panels, Tensor y) {
        int in = w.inFeatures();
        int out = w.outFeatures();
        int tasks = (out + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
        if (x.dtype() != DType.F32 || in % w.config().blocksize() != 0) {
            float[] xs = planes(x.rows() * in);
            Floats.load(x, 0, x.rows() * in, xs, 0);
            grow(rows, in);
            team.run(tasks, (task, worker) -> decoded(xs, panels, task * ROWS_PER_TASK,
                    Math.min(out, (task + 1) * ROWS_PER_TASK), rows[worker], y, in));
            return;
        }
        int words = in / WORD;
        int plane = (words + L - 1) / L * L;
        float[] xs = planes(x.rows() * WORD * plane);
        grow(rows, in);
        for (int i = 0; i < x.rows(); i++) {
            toPlanes(x, i, rows[0], xs, i * WORD * plane, words, plane);
        }
        Scales scales = new Scales(w);
        for (Scratch s : scratch) {
            s.grow(SHARED * plane, SHARED * (in / w.config().blocksize() + L));
        }
        team.run(tasks, (task, worker) -> {
            int end = Math.min(out, (task + 1) * ROWS_PER_TASK);
            for (int o = task * ROWS_PER_TASK; o < end; o += SHARED) {
                byWords(w, codec, scales, o, Math.min(SHARED, end - o), xs, plane, scratch[worker], y);
            }
        });
    }

    private float[] planes(int length) {
        if (planes.length < length) {
            planes = new float[length];
        }
        return planes;
    }

    private static void grow(float[][] scratch, int length) {
        for (int i = 0; i < scratch.length; i++) {
            if (scratch[i].length < length) {
                scratch[i] = new float[length];
            }
        }
    }

    private static void decoded(float[] xs, VectorPanels panels, int from, int to, float[] row, Tensor y, int in) {
        int out = y.cols();
        for (int o = from; o < to; o++) {
            panels.decode((long) o * in, in, row, 0);
            for (int i = 0; i < y.rows(); i++) {
                y.set((long) i * out + o, VectorMatmul.dot(row, xs, i * in, in));
            }
        }
    }

    /** planes[q][t] = x[8 t + (q ^ 1)]: nibble q of a little-endian word holds element q ^ 1 of its eight. */
    private static void toPlanes(Tensor x, int i, float[] row, float[] planes, int at, int words, int plane) {
        int in = x.cols();
        Floats.load(x, (long) i * in, in, row, 0);
        for (int q = 0; q < WORD; q++) {
            int to = at + q * plane;
            for (int t = 0; t < words; t++) {
                planes[to + t] = row[WORD * t + (q ^ 1)];
            }
            Arrays.fill(planes, to + words, to + plane, 0f);
        }
    }

    /** Reads {@code count} rows of W from {@code o} on, and multiplies them with all rows of x. */
    private static void byWords(QuantizedTensor w, VectorCodec codec, Scales scales, int o, int count, float[] xs,
            int plane, Scratch scratch, Tensor y) {
        int words = w.inFeatures() / WORD;
        int perBlock = w.config().blocksize() / WORD;
        int blocks = words / perBlock;
        for (int r = 0; r < SHARED; r++) {
            // A row that is not there is computed as the last one again.
            long row = o + Math.min(r, count - 1);
            Lanes.load(w.packed().data(), row * words * Integer.BYTES, words, scratch.words, r * plane);
            int at = r * (blocks + L);
            scales.get(row * blocks, blocks, scratch.scales, at, 1);
            // Whatever codes lie beyond the row, they count nothing.
            Arrays.fill(scratch.scales, at + blocks, at + blocks + L, 0f);
        }
        for (int i = 0; i < y.rows(); i++) {
            dots(codec, scratch, blocks + L, perBlock, xs, i * WORD * plane, plane);
            for (int r = 0; r < count; r++) {
                y.set((long) i * w.outFeatures() + o + r, scratch.sums[r]);
            }
        }
    }

    /** {@link #SHARED} rows of words times one row of x. The loops are small, for the compiler to inline all of them. */
    private static void dots(VectorCodec codec, Scratch scratch, int scaleRow, int perBlock, float[] xs, int x,
            int plane) {
        float[] words = scratch.words;
        float[] scales = scratch.scales;
        IntVector spread = Lanes.iota().lanewise(VectorOperators.LSHR, Integer.numberOfTrailingZeros(perBlock));
        IntVector t0 = codec.table(0), t1 = codec.table(1), t2 = codec.table(2), t3 = codec.table(3);
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        for (int t = 0; t < plane; t += L) {
            IntVector w0 = words(words, t);
            IntVector w1 = words(words, plane + t);
            IntVector w2 = words(words, 2 * plane + t);
            IntVector w3 = words(words, 3 * plane + t);
            FloatVector d0 = FloatVector.zero(Lanes.F), d1 = d0, d2 = d0, d3 = d0;
            for (int q = 0; q < WORD; q++) {
                FloatVector v = FloatVector.fromArray(Lanes.F, xs, x + q * plane + t);
                d0 = VectorCodec.values(VectorCodec.nibble(w0, q), t0, t1, t2, t3).fma(v, d0);
                d1 = VectorCodec.values(VectorCodec.nibble(w1, q), t0, t1, t2, t3).fma(v, d1);
                d2 = VectorCodec.values(VectorCodec.nibble(w2, q), t0, t1, t2, t3).fma(v, d2);
                d3 = VectorCodec.values(VectorCodec.nibble(w3, q), t0, t1, t2, t3).fma(v, d3);
            }
            int block = t / perBlock;
            s0 = d0.fma(scale(spread, scales, block), s0);
            s1 = d1.fma(scale(spread, scales, scaleRow + block), s1);
            s2 = d2.fma(scale(spread, scales, 2 * scaleRow + block), s2);
            s3 = d3.fma(scale(spread, scales, 3 * scaleRow + block), s3);
        }
        scratch.sums[0] = Lanes.sum(s0);
        scratch.sums[1] = Lanes.sum(s1);
        scratch.sums[2] = Lanes.sum(s2);
        scratch.sums[3] = Lanes.sum(s3);
    }

    private static IntVector words(float[] words, int at) {
        return FloatVector.fromArray(Lanes.F, words, at).reinterpretAsInts();
    }

    /** In each lane, the constant of its word's block. */
    private static FloatVector scale(IntVector spread, float[] scales, int block) {
        return spread.selectFrom(words(scales, block)).reinterpretAsFloats();
    }
}
