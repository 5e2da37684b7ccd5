package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
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
 * eight consecutive codes, read where it lies; x is reordered once, so that a vector holds what nibble q of each word is
 * multiplied with. Within a word the codebook's values are summed before the block's constant is applied.
 */
final class VectorFewRows {
    private static final int L = Lanes.L;
    /** Up to this many rows of x this is faster than panels; at four lanes looking up a code costs more. */
    static final int MAX = L == 4 ? 2 : 4;

    private static final int WORD = 8;
    /** Rows of W that share a pass over x: one of each quarter of a task's rows, so that each quarter is read on and on. */
    private static final int SHARED = 4;
    private static final int MOST_ROWS_PER_TASK = 64;
    /** A matrix of few rows is still cut into this many tasks, so that no thread waits long for another. */
    private static final int LEAST_TASKS = 16;

    private final Team team;
    private final float[][] rows;
    private final Scratch[] scratch;
    private float[] ordered = new float[0];

    /** A task's sums of one row of x, with room before them for rows that another task writes. */
    private static final int SUMS = SHARED + MOST_ROWS_PER_TASK;

    /** One thread's constants and sums of a task's rows of W. */
    private static final class Scratch {
        private float[] scales = new float[0];
        private byte[] codes = new byte[0];
        private final float[] sums = new float[MAX * SUMS];
        /** The sums while they are still one for each lane. */
        private final float[] lanes = new float[MAX * SUMS * L];
    }

    /** A matrix and where its result goes. */
    record Product(QuantizedTensor w, VectorCodec codec, Tensor y) {
    }

    /** What the tasks of a product need: those from {@code firstTask} on, {@code perTask} rows each. */
    private record Part(QuantizedTensor w, VectorCodec codec, Tensor y, Scales scales, int firstTask, int perTask) {
        private int tasks() {
            return Math.ceilDiv(w.outFeatures(), perTask);
        }
    }

    VectorFewRows(Team team) {
        this.team = team;
        this.rows = new float[team.size()][0];
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    /** Whether rows of W are read by words, where they lie. */
    static boolean byWords(Tensor x, QuantizedTensor w) {
        int in = w.inFeatures();
        return x.dtype() == DType.F32 && in % w.config().blocksize() == 0 && in / WORD >= L
                && w.outFeatures() >= SHARED;
    }

    /** A product whose rows are decoded into a buffer. */
    synchronized void matmul(Tensor x, VectorPanels panels, Tensor y) {
        int in = x.cols();
        int out = y.cols();
        grow(rows, in);
        float[] xs = ordered(x.rows() * in);
        Floats.load(x, 0, x.rows() * in, xs, 0);
        int perTask = perTask(out);
        team.run((out + perTask - 1) / perTask, (task, worker) -> decoded(xs, panels, task * perTask,
                Math.min(out, (task + 1) * perTask), rows[worker], y, in));
    }

    private static int perTask(int rows) {
        return Math.clamp((rows / LEAST_TASKS + SHARED - 1) / SHARED * SHARED, SHARED, MOST_ROWS_PER_TASK);
    }

    /** Products of one x, all of them {@link #byWords}: in one loop of the team. */
    synchronized void matmul(Tensor x, Product... products) {
        int in = x.cols();
        int words = in / WORD;
        int each = (words + L - 1) / L * L * WORD;
        float[] xs = ordered(x.rows() * each);
        for (int i = 0; i < x.rows(); i++) {
            order(x, i, xs, i * each, words);
        }
        Part[] parts = parts(products);
        Part last = parts[parts.length - 1];
        team.run(last.firstTask + last.tasks(), (task, worker) -> {
            int i = 0;
            while (i + 1 < parts.length && task >= parts[i + 1].firstTask) {
                i++;
            }
            task(parts[i], (task - parts[i].firstTask) * parts[i].perTask, xs, each, x.rows(), scratch[worker]);
        });
    }

    /** Tasks of about as many rows in all matrices. */
    private Part[] parts(Product... products) {
        int all = 0;
        for (Product p : products) {
            all += p.w.outFeatures();
        }
        Part[] parts = new Part[products.length];
        int needed = 0;
        for (int i = 0, task = 0; i < parts.length; task += parts[i++].tasks()) {
            QuantizedTensor w = products[i].w;
            int rows = Math.ceilDiv(w.outFeatures(), Math.ceilDiv(w.outFeatures(), perTask(all)));
            int perTask = Math.ceilDiv(rows, SHARED) * SHARED;
            parts[i] = new Part(w, products[i].codec, products[i].y, new Scales(w), task, perTask);
            needed = Math.max(needed, (perTask + SHARED) * (w.inFeatures() / w.config().blocksize()) + L);
        }
        for (Scratch s : scratch) {
            if (s.scales.length < needed) {
                s.scales = new float[needed];
                s.codes = new byte[needed];
            }
        }
        return parts;
    }

    /** Rows of W from {@code first} on. */
    private static void task(Part part, int first, float[] xs, int each, int rows, Scratch own) {
        QuantizedTensor w = part.w;
        int out = w.outFeatures();
        int count = Math.min(part.perTask, out - first);
        int before = Math.max(0, SHARED - count);
        int blocks = w.inFeatures() / w.config().blocksize();
        part.scales.get((long) (first - before) * blocks, (count + before) * blocks, own.scales, own.codes);
        int quarter = count / SHARED;
        for (int r = 0; r < quarter; r++) {
            byWords(w, part.codec, first, r, quarter, before, xs, each, rows, own);
        }
        if (count % SHARED != 0) {
            byWords(w, part.codec, first, count - SHARED, 1, before, xs, each, rows, own);
        }
        for (int i = 0; i < rows; i++) {
            addLanes(own.lanes, i * SUMS + SHARED, count, own.sums);
            Floats.store(own.sums, i * SUMS + SHARED, count, part.y, (long) i * out + first);
        }
    }

    private float[] ordered(int length) {
        if (ordered.length < length) {
            ordered = new float[length];
        }
        return ordered;
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
                y.set((long) i * out + o, VectorMatmul.dot(row, 0, xs, i * in, in));
            }
        }
    }

    /**
     * Row i of x in the order in which {@link #dots} reads it: for each vector of words, of which the first is
     * {@code t}, and each element j of a word's eight, {@code x[8 (t + lane) + j]}. The last vector begins L words before
     * the end, and x is zero in its lanes that the vector before has counted.
     */
    private void order(Tensor x, int i, float[] ordered, int at, int words) {
        int in = x.cols();
        grow(rows, in);
        float[] row = rows[0];
        Floats.load(x, (long) i * in, in, row, 0);
        for (int t = 0, to = at; t < words; t += L, to += WORD * L) {
            int first = Math.min(t, words - L);
            for (int lane = 0; lane < L; lane++) {
                for (int j = 0, from = WORD * (first + lane); j < WORD; j++) {
                    ordered[to + j * L + lane] = row[from + j];
                }
            }
            for (int j = 0; j < WORD; j++) {
                Arrays.fill(ordered, to + j * L, to + j * L + t - first, 0);
            }
        }
    }

    /**
     * Multiplies {@link #SHARED} rows of W, {@code apart} rows from one to the next and from {@code first + r} on, with
     * all rows of x. A task's last rows, if fewer, are computed with some before them, which its own or another call has
     * computed too.
     *
     * @param before rows before {@code first} whose constants precede the task's own
     */
    private static void byWords(QuantizedTensor w, VectorCodec codec, int first, int r, int apart, int before,
            float[] xs, int each, int rows, Scratch own) {
        int words = w.inFeatures() / WORD;
        int blockShift = Integer.numberOfTrailingZeros(w.config().blocksize() / WORD);
        int blocks = words >>> blockShift;
        for (int i = 0; i < rows; i++) {
            dots(codec, w.packed().data(), (long) (first + r) * words * Integer.BYTES, apart, words, own.scales,
                    (before + r) * blocks, apart * blocks, blockShift, xs, i * each, own.lanes,
                    (i * SUMS + SHARED + r) * L);
        }
    }

    /**
     * {@link #SHARED} rows of words times one row of x. The loops are small, for the compiler to inline all of them; so
     * the lanes are added elsewhere, and the nibbles of a word are a loop, which unrolled by hand measured 1.2 to 1.6 times as slow.
     */
    private static void dots(VectorCodec codec, MemorySegment packed, long from, int apart, int words, float[] scales,
            int scaleAt, int scaleRow, int blockShift, float[] xs, int x, float[] lanes, int to) {
        long distance = (long) apart * words * Integer.BYTES;
        IntVector spread = Lanes.iota().lanewise(VectorOperators.LSHR, blockShift);
        IntVector t0 = codec.table(0), t1 = codec.table(1), t2 = codec.table(2), t3 = codec.table(3);
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        int p = x;
        for (int i = 0; i < words; i += L) {
            int t = Math.min(i, words - L);
            long at = from + (long) t * Integer.BYTES;
            IntVector w0 = words(packed, at);
            IntVector w1 = words(packed, at + distance);
            IntVector w2 = words(packed, at + 2 * distance);
            IntVector w3 = words(packed, at + 3 * distance);
            FloatVector d0 = FloatVector.zero(Lanes.F), d1 = d0, d2 = d0, d3 = d0;
            for (int q = 0; q < WORD; q++) {
                // Nibble q of a little-endian word holds element q ^ 1 of its eight.
                FloatVector v = FloatVector.fromArray(Lanes.F, xs, p + (q ^ 1) * L);
                d0 = VectorCodec.values(w0, t0, t1, t2, t3).fma(v, d0);
                d1 = VectorCodec.values(w1, t0, t1, t2, t3).fma(v, d1);
                d2 = VectorCodec.values(w2, t0, t1, t2, t3).fma(v, d2);
                d3 = VectorCodec.values(w3, t0, t1, t2, t3).fma(v, d3);
                w0 = VectorCodec.next(w0);
                w1 = VectorCodec.next(w1);
                w2 = VectorCodec.next(w2);
                w3 = VectorCodec.next(w3);
            }
            p += WORD * L;
            int block = scaleAt + (t >>> blockShift);
            s0 = d0.fma(scale(spread, scales, block), s0);
            s1 = d1.fma(scale(spread, scales, scaleRow + block), s1);
            s2 = d2.fma(scale(spread, scales, 2 * scaleRow + block), s2);
            s3 = d3.fma(scale(spread, scales, 3 * scaleRow + block), s3);
        }
        s0.intoArray(lanes, to);
        s1.intoArray(lanes, to + apart * L);
        s2.intoArray(lanes, to + 2 * apart * L);
        s3.intoArray(lanes, to + 3 * apart * L);
    }

    /** {@code sums[from + j] = Σ lanes[(from + j)·L ...]} for {@code n} sums. */
    private static void addLanes(float[] lanes, int from, int n, float[] sums) {
        for (int j = from; j < from + n; j++) {
            sums[j] = Lanes.sum(FloatVector.fromArray(Lanes.F, lanes, j * L));
        }
    }

    private static IntVector words(MemorySegment packed, long at) {
        return IntVector.fromMemorySegment(Lanes.I, packed, at, ByteOrder.LITTLE_ENDIAN);
    }

    /** In each lane, the constant of its word's block. */
    private static FloatVector scale(IntVector spread, float[] scales, int block) {
        return spread.selectFrom(FloatVector.fromArray(Lanes.F, scales, block).reinterpretAsInts())
                .reinterpretAsFloats();
    }
}
