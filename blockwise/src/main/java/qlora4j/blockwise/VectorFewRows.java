package qlora4j.blockwise;

import java.util.Arrays;
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

    private static final int WORD = VectorWordDots.WORD;
    /**
     * Rows of W that share a pass over x: one of each quarter of the matrix, so that each quarter is read on and on, also
     * from one task of a thread to the next. The longer these streams, the more of them the processor fetches ahead.
     */
    private static final int SHARED = VectorWordDots.SHARED;
    private static final int MOST_ROWS_PER_TASK = 64;
    /** A matrix of few rows is still cut into this many tasks, so that no thread waits long for another. */
    private static final int LEAST_TASKS = 16;

    private final Team team;
    private final float[][] rows;
    private final Scratch[] scratch;
    private float[] ordered = new float[0];

    /** A task's sums of one row of x. */
    private static final int SUMS = MOST_ROWS_PER_TASK;

    /** One thread's constants and sums of a task's rows of W. */
    private static final class Scratch {
        private float[] scales = new float[0];
        private final int[] codes = new int[L];
        private final float[] sums = new float[MAX * SUMS];
        /** The sums while they are still one for each lane. */
        private final float[] lanes = new float[MAX * SUMS * L];
    }

    /** A matrix and where its result goes. */
    record Product(QuantizedTensor w, VectorCodec codec, Tensor y) {
    }

    /**
     * What the tasks of a product need: those from {@code firstTask} on. Each has {@code each} units of each quarter of
     * the matrix; the last units, fewer than four, are a task of their own.
     *
     * @param unit the rows of W that are read as one: two where a row ends in half a vector of words
     */
    private record Part(QuantizedTensor w, VectorCodec codec, Tensor y, Scales scales, int unit, int firstTask,
            int each) {
        private int units() {
            return w.outFeatures() / unit;
        }

        private int quarter() {
            return units() / SHARED;
        }

        private int tasks() {
            return Math.ceilDiv(quarter(), each) + (units() % SHARED == 0 ? 0 : 1);
        }

        /** Constants of a unit. */
        private int blocks() {
            return w.inFeatures() / w.config().blocksize() * unit;
        }
    }

    private static int unit(int in, int out) {
        return in / WORD % L == L / 2 && out % 2 == 0 && out / 2 >= SHARED ? 2 : 1;
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
        // Matrices whose rows are read alone and those of units of two may come together.
        boolean pairs = false;
        for (Product p : products) {
            pairs |= unit(in, p.w.outFeatures()) == 2;
        }
        int each = (words + L - 1) / L * L * WORD;
        int whole = each + (pairs ? 2 * words * WORD : 0);
        float[] xs = ordered(x.rows() * whole);
        grow(rows, in);
        for (int i = 0; i < x.rows(); i++) {
            Floats.load(x, (long) i * in, in, rows[0], 0);
            VectorWordDots.order(rows[0], words, xs, i * whole);
            if (pairs) {
                VectorWordDots.orderPair(rows[0], words, xs, i * whole + each);
            }
        }
        Part[] parts = parts(products);
        Part last = parts[parts.length - 1];
        team.run(last.firstTask + last.tasks(), (task, worker) -> {
            int i = 0;
            while (i + 1 < parts.length && task >= parts[i + 1].firstTask) {
                i++;
            }
            task(parts[i], task - parts[i].firstTask, xs, parts[i].unit == 2 ? each : 0, whole, x.rows(),
                    scratch[worker]);
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
            int unit = unit(w.inFeatures(), w.outFeatures());
            // As many rows as a task has room for: of units of two rows half as many.
            int units = Math.min(perTask(all), MOST_ROWS_PER_TASK) / unit;
            parts[i] = new Part(w, products[i].codec, products[i].y, new Scales(w), unit, task,
                    Math.max(1, units / SHARED));
            needed = Math.max(needed, parts[i].each * SHARED * parts[i].blocks() + L);
        }
        for (Scratch s : scratch) {
            if (s.scales.length < needed) {
                s.scales = new float[needed];
            }
        }
        return parts;
    }

    /** A task's units of W, times x as it is ordered from {@code x} on. */
    private static void task(Part part, int task, float[] xs, int x, int whole, int rows, Scratch own) {
        int first = task * part.each;
        if (first >= part.quarter()) {
            // The last units with some before them, whose results are those of other tasks.
            int over = SHARED - part.units() % SHARED;
            scales(part, part.units() - SHARED, SHARED, 0, own);
            dots(part, part.units() - SHARED, 1, 0, 1, xs, x, whole, rows, own);
            addLanes(SHARED * part.unit, rows, own);
            store(part, part.units() - SHARED + over, SHARED - over, over, rows, own);
            return;
        }
        int count = Math.min(part.each, part.quarter() - first);
        for (int q = 0; q < SHARED; q++) {
            scales(part, q * part.quarter() + first, count, q * count, own);
        }
        for (int r = 0; r < count; r++) {
            dots(part, first + r, part.quarter(), r, count, xs, x, whole, rows, own);
        }
        addLanes(SHARED * count * part.unit, rows, own);
        for (int q = 0; q < SHARED; q++) {
            store(part, q * part.quarter() + first, count, q * count, rows, own);
        }
    }

    /** The constants of units from {@code first} on become those of a task's units from {@code to} on. */
    private static void scales(Part part, int first, int count, int to, Scratch own) {
        int blocks = part.blocks();
        VectorScales.get(part.scales, (long) first * blocks, count * blocks, own.scales, to * blocks, own.codes);
    }

    /** Of {@code n} rows of W and each row of x. */
    private static void addLanes(int n, int rows, Scratch own) {
        for (int i = 0; i < rows; i++) {
            Lanes.sums(own.lanes, i * SUMS * L, n, own.sums, i * SUMS);
        }
    }

    /** The sums of a task's units from {@code from} on are those of units from {@code first} on. */
    private static void store(Part part, int first, int count, int from, int rows, Scratch own) {
        int unit = part.unit;
        for (int i = 0; i < rows; i++) {
            Floats.store(own.sums, i * SUMS + from * unit, count * unit, part.y,
                    (long) i * part.w.outFeatures() + (long) first * unit);
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
     * Multiplies {@link #SHARED} units of W, {@code apart} units from one to the next and from {@code first} on, with all
     * rows of x. They are the task's units {@code r}, {@code r + step} ...
     */
    private static void dots(Part part, int first, int apart, int r, int step, float[] xs, int x, int whole, int rows,
            Scratch own) {
        QuantizedTensor w = part.w;
        int words = w.inFeatures() / WORD * part.unit;
        int blockShift = Integer.numberOfTrailingZeros(w.config().blocksize() / WORD);
        int blocks = words >>> blockShift;
        for (int i = 0; i < rows; i++) {
            VectorWordDots.dots(part.codec, w.packed().data(), (long) first * words * Integer.BYTES,
                    (long) apart * words * Integer.BYTES, words, part.unit, own.scales, r * blocks, step * blocks,
                    blockShift, xs, x + i * whole, own.lanes, (i * SUMS + r * part.unit) * L, step * part.unit * L);
        }
    }
}
