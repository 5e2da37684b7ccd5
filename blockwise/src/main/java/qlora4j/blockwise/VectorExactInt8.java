package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/**
 * As {@link VectorFewRows}: a lane holds a word of four codes of a row, read where it lies, and x is put in order once,
 * so that a vector holds what byte q of each word is multiplied with. A word's codes are summed before the block's
 * constant is applied. Four rows of W, one of each quarter of the matrix, share a pass over x.
 */
final class VectorExactInt8 implements ExactInt8Kernels {
    private static final int L = Lanes.L;
    private static final int WORD = 4;
    private static final int SHARED = 4;
    /** Rows of each quarter that a task has. */
    private static final int EACH = 16;
    private static final int ROWS_PER_TASK = SHARED * EACH;
    /** A lane's word lies in this block of those that a vector touches. */
    private static final int BLOCK_SHIFT = Integer.numberOfTrailingZeros(ExactInt8.BLOCK / WORD);

    private final Team team;
    private final Scratch[] scratch;
    private float[] row = new float[0];
    private float[] ordered = new float[0];

    /** One thread's constants and sums of a task, the sums first one for each lane, then added. */
    private static final class Scratch {
        private float[] scales = new float[0];
        private final float[] lanes = new float[ROWS_PER_TASK * L];
        private final float[] sums = new float[ROWS_PER_TASK];
    }

    VectorExactInt8(Team team) {
        this.team = team;
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    @Override
    public synchronized void matmul(Stream stream, Tensor x, ExactInt8 w, Tensor y) {
        int in = w.cols();
        int out = w.rows();
        int words = in / WORD;
        int each = (words + L - 1) / L * L * WORD;
        int rows = x.rows();
        if (ordered.length < rows * each) {
            ordered = new float[rows * each];
        }
        if (row.length < in) {
            row = new float[in];
        }
        for (int m = 0; m < rows; m++) {
            Floats.load(x, (long) m * in, in, row, 0);
            order(row, words, ordered, m * each);
        }
        float[] xs = ordered;
        int perRow = in / ExactInt8.BLOCK;
        for (Scratch s : scratch) {
            if (s.scales.length < ROWS_PER_TASK * perRow + L) {
                s.scales = new float[ROWS_PER_TASK * perRow + L];
            }
        }
        int quarter = out / SHARED;
        int tasks = Math.ceilDiv(quarter, EACH);
        team.run(tasks + (out % SHARED == 0 ? 0 : 1), (task, worker) -> {
            Scratch own = scratch[worker];
            if (task == tasks) {
                // The last rows, fewer than four: each as often as it takes.
                int first = quarter * SHARED;
                int count = out - first;
                scales(w, first, count, 0, own);
                for (int m = 0; m < rows; m++) {
                    for (int r = 0; r < count; r++) {
                        dots(w.codes().data(), (long) (first + r) * in, 0, words, own.scales, r * perRow, 0, xs,
                                m * each, own.lanes, r * L, 0);
                    }
                    store(own, 0, count, y, (long) m * out + first);
                }
                return;
            }
            int first = task * EACH;
            int count = Math.min(EACH, quarter - first);
            for (int q = 0; q < SHARED; q++) {
                scales(w, q * quarter + first, count, q * EACH, own);
            }
            for (int m = 0; m < rows; m++) {
                for (int r = 0; r < count; r++) {
                    dots(w.codes().data(), (long) (first + r) * in, (long) quarter * in, words, own.scales,
                            r * perRow, EACH * perRow, xs, m * each, own.lanes, r * L, EACH * L);
                }
                for (int q = 0; q < SHARED; q++) {
                    store(own, q * EACH, count, y, (long) m * out + (long) q * quarter + first);
                }
            }
        });
    }

    /** The constants of rows from {@code first} on become those of a task's rows from {@code to} on. */
    private static void scales(ExactInt8 w, int first, int count, int to, Scratch own) {
        int perRow = w.cols() / ExactInt8.BLOCK;
        Floats.load(w.scales(), (long) first * perRow, count * perRow, own.scales, to * perRow);
    }

    /** The sums of a task's rows from {@code from} on go to y. */
    private static void store(Scratch own, int from, int count, Tensor y, long at) {
        Lanes.sums(own.lanes, from * L, count, own.sums, from);
        Floats.store(own.sums, from, count, y, at);
    }

    /**
     * Row of x in the order in which {@link #dots} reads it: for each vector of words, of which the first is {@code t},
     * and each byte q of a word from the last on, {@code x[4 (t + lane) + q]}. The last vector begins L words before the
     * end, and x is zero in its lanes that the vector before has counted.
     */
    private static void order(float[] x, int words, float[] ordered, int at) {
        for (int t = 0, to = at; t < words; t += L, to += WORD * L) {
            int first = Math.min(t, words - L);
            for (int lane = 0; lane < L; lane++) {
                boolean counted = lane < t - first;
                for (int q = 0; q < WORD; q++) {
                    ordered[to + (WORD - 1 - q) * L + lane] = counted ? 0 : x[WORD * (first + lane) + q];
                }
            }
        }
    }

    /**
     * Four rows, the first at byte {@code from}, {@code distance} bytes from one to the next, times a row of x.
     *
     * @param scale where the first row's constants are; those of the next {@code scaleRow} further
     * @param to where the sums of the first row's lanes go; those of the next {@code step} further
     */
    private static void dots(MemorySegment codes, long from, long distance, int words, float[] scales, int scale,
            int scaleRow, float[] xs, int x, float[] lanes, int to, int step) {
        IntVector spread = Lanes.iota().lanewise(VectorOperators.LSHR, BLOCK_SHIFT);
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        for (int i = 0, p = x; i < words; i += L) {
            int t = Math.min(i, words - L);
            long at = from + (long) t * WORD;
            IntVector w0 = words(codes, at);
            IntVector w1 = words(codes, at + distance);
            IntVector w2 = words(codes, at + 2 * distance);
            IntVector w3 = words(codes, at + 3 * distance);
            FloatVector d0 = FloatVector.zero(Lanes.F), d1 = d0, d2 = d0, d3 = d0;
            for (int q = 0; q < WORD; q++, p += L) {
                FloatVector v = FloatVector.fromArray(Lanes.F, xs, p);
                d0 = last(w0).fma(v, d0);
                d1 = last(w1).fma(v, d1);
                d2 = last(w2).fma(v, d2);
                d3 = last(w3).fma(v, d3);
                w0 = next(w0);
                w1 = next(w1);
                w2 = next(w2);
                w3 = next(w3);
            }
            int block = scale + (t >>> BLOCK_SHIFT);
            s0 = d0.fma(scale(spread, scales, block), s0);
            s1 = d1.fma(scale(spread, scales, block + scaleRow), s1);
            s2 = d2.fma(scale(spread, scales, block + 2 * scaleRow), s2);
            s3 = d3.fma(scale(spread, scales, block + 3 * scaleRow), s3);
        }
        s0.intoArray(lanes, to);
        s1.intoArray(lanes, to + step);
        s2.intoArray(lanes, to + 2 * step);
        s3.intoArray(lanes, to + 3 * step);
    }

    private static IntVector words(MemorySegment codes, long at) {
        return IntVector.fromMemorySegment(Lanes.I, codes, at, ByteOrder.LITTLE_ENDIAN);
    }

    /** The last byte of each word, with its sign, as a float. */
    private static FloatVector last(IntVector words) {
        return (FloatVector) words.lanewise(VectorOperators.ASHR, Integer.SIZE - Byte.SIZE)
                .convert(VectorOperators.I2F, 0);
    }

    /** The byte before becomes the last. */
    private static IntVector next(IntVector words) {
        return words.lanewise(VectorOperators.LSHL, Byte.SIZE);
    }

    /** In each lane, the constant of its word's block. */
    private static FloatVector scale(IntVector spread, float[] scales, int block) {
        return spread.selectFrom(FloatVector.fromArray(Lanes.F, scales, block).reinterpretAsInts())
                .reinterpretAsFloats();
    }
}
