package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
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
final class FewRows {
    /** Up to this many rows of x this is faster than panels. */
    static final int MAX = 3;

    private static final int L = Lanes.L;
    private static final int WORD = 8;
    private static final int ROWS_PER_TASK = 64;
    /** Rows of W that share a pass over x. */
    private static final int SHARED = 4;

    private final Team team;
    private final float[][] rows;
    private final float[][] scaleRows;
    private float[] planes = new float[0];

    FewRows(Team team) {
        this.team = team;
        this.rows = new float[team.size()][0];
        this.scaleRows = new float[team.size()][0];
    }

    synchronized void matmul(Tensor x, QuantizedTensor w, LaneCodec codec, WeightPanels panels, Tensor y) {
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
        grow(scaleRows, SHARED * plane);
        team.run(tasks, (task, worker) -> {
            int end = Math.min(out, (task + 1) * ROWS_PER_TASK);
            for (int o = task * ROWS_PER_TASK; o < end; o += SHARED) {
                byWords(w, codec, scales, o, Math.min(SHARED, end - o), xs, plane, scaleRows[worker], y);
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

    private static void decoded(float[] xs, WeightPanels panels, int from, int to, float[] row, Tensor y, int in) {
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

    /** {@code count} rows of W from {@code o} on, times all rows of x. */
    private static void byWords(QuantizedTensor w, LaneCodec codec, Scales scales, int o, int count, float[] xs,
            int plane, float[] scale, Tensor y) {
        int in = w.inFeatures();
        int out = w.outFeatures();
        int words = in / WORD;
        int perBlock = w.config().blocksize() / WORD;
        MemorySegment packed = w.packed().data();
        for (int r = 0; r < count; r++) {
            long block = (long) (o + r) * words / perBlock;
            for (int t = 0; t < words; t += perBlock) {
                Arrays.fill(scale, r * plane + t, r * plane + t + perBlock, scales.get(block++));
            }
            Arrays.fill(scale, r * plane + words, (r + 1) * plane, 0f);
        }
        long rowBytes = in / 2;
        long at = o * rowBytes;
        // A row that is not there is computed as the last one again.
        long at1 = at + Math.min(1, count - 1) * rowBytes;
        long at2 = at + Math.min(2, count - 1) * rowBytes;
        long at3 = at + Math.min(3, count - 1) * rowBytes;
        for (int i = 0; i < y.rows(); i++) {
            FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
            int x = i * WORD * plane;
            int t = 0;
            for (; t <= words - L; t += L, x += L) {
                s0 = dot(codec, word(packed, at + 4L * t), xs, x, plane).fma(scale(scale, t), s0);
                s1 = dot(codec, word(packed, at1 + 4L * t), xs, x, plane).fma(scale(scale, plane + t), s1);
                s2 = dot(codec, word(packed, at2 + 4L * t), xs, x, plane).fma(scale(scale, 2 * plane + t), s2);
                s3 = dot(codec, word(packed, at3 + 4L * t), xs, x, plane).fma(scale(scale, 3 * plane + t), s3);
            }
            if (t < words) {
                VectorMask<Integer> rest = Lanes.I.indexInRange(t, words);
                s0 = dot(codec, word(packed, at + 4L * t, rest), xs, x, plane).fma(scale(scale, t), s0);
                s1 = dot(codec, word(packed, at1 + 4L * t, rest), xs, x, plane).fma(scale(scale, plane + t), s1);
                s2 = dot(codec, word(packed, at2 + 4L * t, rest), xs, x, plane).fma(scale(scale, 2 * plane + t), s2);
                s3 = dot(codec, word(packed, at3 + 4L * t, rest), xs, x, plane).fma(scale(scale, 3 * plane + t), s3);
            }
            long to = (long) i * out + o;
            y.set(to, Lanes.sum(s0));
            if (count > 1) {
                y.set(to + 1, Lanes.sum(s1));
            }
            if (count > 2) {
                y.set(to + 2, Lanes.sum(s2));
            }
            if (count > 3) {
                y.set(to + 3, Lanes.sum(s3));
            }
        }
    }

    private static IntVector word(MemorySegment packed, long offset) {
        return IntVector.fromMemorySegment(Lanes.I, packed, offset, ByteOrder.LITTLE_ENDIAN);
    }

    private static IntVector word(MemorySegment packed, long offset, VectorMask<Integer> rest) {
        return IntVector.fromMemorySegment(Lanes.I, packed, offset, ByteOrder.LITTLE_ENDIAN, rest);
    }

    private static FloatVector scale(float[] scale, int at) {
        return FloatVector.fromArray(Lanes.F, scale, at);
    }

    private static FloatVector plane(float[] xs, int at) {
        return FloatVector.fromArray(Lanes.F, xs, at);
    }

    /** In each lane, the eight codes of a word times x, without the block's constant: two sums of four, then one. */
    private static FloatVector dot(LaneCodec codec, IntVector word, float[] xs, int x, int plane) {
        FloatVector even = codec.values(LaneCodec.nibble(word, 0)).mul(plane(xs, x));
        FloatVector odd = codec.values(LaneCodec.nibble(word, 1)).mul(plane(xs, x + plane));
        even = codec.values(LaneCodec.nibble(word, 2)).fma(plane(xs, x + 2 * plane), even);
        odd = codec.values(LaneCodec.nibble(word, 3)).fma(plane(xs, x + 3 * plane), odd);
        even = codec.values(LaneCodec.nibble(word, 4)).fma(plane(xs, x + 4 * plane), even);
        odd = codec.values(LaneCodec.nibble(word, 5)).fma(plane(xs, x + 5 * plane), odd);
        even = codec.values(LaneCodec.nibble(word, 6)).fma(plane(xs, x + 6 * plane), even);
        odd = codec.values(LaneCodec.nibble(word, 7)).fma(plane(xs, x + 7 * plane), odd);
        return even.add(odd);
    }
}
