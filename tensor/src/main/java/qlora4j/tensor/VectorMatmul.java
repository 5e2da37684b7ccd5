package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;

/** Dense products on the tiled {@link VectorGemm}; few rows (decoding) as dot products along the weight's rows. */
public final class VectorMatmul implements MatmulKernels {
    /** Up to this many rows of x, {@link #nt} reads each weight row once, straight through. */
    public static final int FEW_ROWS = 4;
    private static final int ROWS_PER_TASK = 64;
    /** A matrix of few rows is still cut into this many tasks, so that no thread waits long for another. */
    private static final int LEAST_TASKS = 16;
    /** A task's sums of one row of x. */
    private static final int SUMS = ROWS_PER_TASK;

    private final Team team;
    private final VectorGemm gemm;
    private final VectorNarrow narrow;
    private final float[][] rowScratch;
    /** The sums of a thread's task while they are still one for each lane. */
    private final float[][] laneScratch;
    private float[] few = new float[0];
    private final VectorDensePanels panels;

    VectorMatmul(Team team) {
        this.team = team;
        this.gemm = new VectorGemm(team);
        this.narrow = new VectorNarrow(team);
        this.rowScratch = new float[team.size()][0];
        this.laneScratch = new float[team.size()][FEW_ROWS * SUMS * Lanes.L];
        this.panels = new VectorDensePanels(team);
    }

    @Override
    public void nt(Stream s, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        if (few(x, w)) {
            ntFewRows(new Tensor[]{x}, new Tensor[]{w}, new float[]{alpha}, new Tensor[]{y}, accumulate);
        } else if (x.rows() <= FEW_ROWS && w.rows() >= VectorDots.ROWS) {
            ntDecoded(x, w, alpha, y, accumulate);
        } else if (narrow(y)) {
            narrow.multiply(x, w, true, alpha, y, accumulate);
        } else {
            gemm.multiply(x, false, alpha, panels.columns(w), y, accumulate);
        }
    }

    @Override
    public void nt(Stream s, Tensor[] x, Tensor[] w, float[] alpha, Tensor[] y, boolean accumulate) {
        boolean few = true;
        for (int i = 0; i < x.length; i++) {
            few &= few(x[i], w[i]);
        }
        if (few) {
            ntFewRows(x, w, alpha, y, accumulate);
        } else {
            MatmulKernels.super.nt(s, x, w, alpha, y, accumulate);
        }
    }

    /** Whether rows of w are read where they lie. */
    private static boolean few(Tensor x, Tensor w) {
        return x.rows() <= FEW_ROWS && w.rows() >= VectorDots.ROWS
                && (w.dtype() == DType.F32 || w.dtype() == DType.BF16);
    }

    @Override
    public void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate) {
        if (narrow(dx)) {
            narrow.multiply(dy, w, false, alpha, dx, accumulate);
        } else {
            gemm.multiply(dy, false, alpha, VectorDensePanels.rows(w), dx, accumulate);
        }
    }

    @Override
    public void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate) {
        // Packing transposes, panels are copied: the narrower matrix is packed.
        if (dy.cols() <= x.cols()) {
            gemm.multiply(dy, true, alpha, VectorDensePanels.rows(x), dw, accumulate);
        } else {
            gemm.multiplyTransposed(x, true, alpha, VectorDensePanels.rows(dy), dw, accumulate);
        }
    }

    /** A product with few columns, such as an adapter's, would pack a large matrix for one panel. */
    private static boolean narrow(Tensor c) {
        return c.cols() <= VectorNarrow.COLUMNS && c.cols() < c.rows();
    }

    private void scratch(int length) {
        for (int i = 0; i < rowScratch.length; i++) {
            if (rowScratch[i].length < length) {
                rowScratch[i] = new float[length];
            }
        }
    }

    /**
     * A product of a few rows of x. Its tasks are those of the loop from {@code firstTask} on; each has {@code each} rows of
     * each quarter of w. The last rows, fewer than four, are a task of their own.
     *
     * @param x where the rows of x begin, as w's type wants them ordered
     */
    private record Few(Tensor w, float alpha, Tensor y, int x, int each, int firstTask) {
        private int quarter() {
            return w.rows() / VectorDots.ROWS;
        }

        private int whole() {
            return Math.ceilDiv(quarter(), each);
        }

        private int tasks() {
            return whole() + (w.rows() % VectorDots.ROWS == 0 ? 0 : 1);
        }
    }

    private synchronized void ntFewRows(Tensor[] x, Tensor[] w, float[] alpha, Tensor[] y, boolean accumulate) {
        int all = 0;
        int size = 0;
        for (int i = 0; i < x.length; i++) {
            all += w[i].rows();
            size += 2 * (int) x[i].size();
        }
        float[] xs = few(size);
        Few[] products = new Few[x.length];
        for (int i = 0, at = 0, task = 0; i < x.length; task += products[i++].tasks()) {
            boolean same = i > 0 && x[i] == x[i - 1] && w[i].dtype() == w[i - 1].dtype();
            int from = same ? products[i - 1].x : load(x[i], w[i].dtype(), xs, at);
            at += same ? 0 : 2 * (int) x[i].size();
            products[i] = new Few(w[i], alpha[i], y[i], from, perTask(all) / VectorDots.ROWS, task);
        }
        scratch(FEW_ROWS * SUMS);
        Few last = products[products.length - 1];
        team.run(last.firstTask + last.tasks(), (task, worker) -> {
            int i = 0;
            while (i + 1 < products.length && task >= products[i + 1].firstTask) {
                i++;
            }
            task(products[i], task - products[i].firstTask, xs, laneScratch[worker], rowScratch[worker], accumulate);
        });
    }

    private float[] few(int length) {
        if (few.length < length) {
            few = new float[length];
        }
        return few;
    }

    /** Rows of x, to {@code xs[at …]}, and there or behind them in the order for rows of that type: where. */
    private static int load(Tensor x, DType type, float[] xs, int at) {
        int size = (int) x.size();
        Floats.load(x, 0, size, xs, at);
        if (type != DType.BF16) {
            return at;
        }
        for (int i = 0; i < size; i += x.cols()) {
            VectorDots.order(xs, at + i, x.cols(), xs, at + size + i);
        }
        return at + size;
    }

    private static void task(Few p, int task, float[] xs, float[] lanes, float[] sums, boolean accumulate) {
        Tensor w = p.w;
        int m = p.y.rows();
        if (task == p.whole()) {
            // The last rows with some before them.
            int first = w.rows() - VectorDots.ROWS;
            int over = VectorDots.ROWS - w.rows() % VectorDots.ROWS;
            direct(w, first, 1, xs, p.x, m, lanes, 0, 1);
            add(w, first, VectorDots.ROWS, xs, p.x, m, lanes, 0, sums);
            store(sums, over, VectorDots.ROWS - over, p.alpha, p.y, first + over, accumulate);
            return;
        }
        int first = task * p.each;
        int quarter = p.quarter();
        int count = Math.min(p.each, quarter - first);
        for (int r = 0; r < count; r++) {
            direct(w, first + r, quarter, xs, p.x, m, lanes, r, count);
        }
        for (int q = 0; q < VectorDots.ROWS; q++) {
            add(w, q * quarter + first, count, xs, p.x, m, lanes, q * count, sums);
            store(sums, q * count, count, p.alpha, p.y, q * quarter + first, accumulate);
        }
    }

    /** A few rows of x times rows of another type, which are decoded one after the other. */
    private synchronized void ntDecoded(Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        int m = x.rows();
        int n = w.rows();
        float[] xs = few((int) x.size());
        Floats.load(x, 0, (int) x.size(), xs, 0);
        scratch(FEW_ROWS * SUMS + x.cols());
        int perTask = perTask(n);
        team.run(Math.ceilDiv(n, perTask), (task, worker) -> {
            int first = task * perTask;
            int count = Math.min(perTask, n - first);
            decoded(w, first, count, xs, m, rowScratch[worker]);
            store(rowScratch[worker], 0, count, alpha, y, first, accumulate);
        });
    }

    private static int perTask(int rows) {
        return Math.clamp(roundUp(rows / LEAST_TASKS, VectorDots.ROWS), VectorDots.ROWS, ROWS_PER_TASK);
    }

    /** Writes a task's sums from {@code at} on to columns {@code first …} of y, or adds them. */
    private static void store(float[] sums, int at, int count, float alpha, Tensor y, int first, boolean accumulate) {
        for (int i = 0; i < y.rows(); i++, at += SUMS) {
            scale(sums, at, count, alpha);
            long to = (long) i * y.cols() + first;
            if (accumulate) {
                Floats.add(y, to, count, sums, at);
            }
            Floats.store(sums, at, count, y, to);
        }
    }

    /**
     * {@link VectorDots#ROWS} rows of W, {@code apart} rows from one to the next, where they lie: one of each quarter of
     * the matrix, so that each quarter is read on and on, which the processor fetches ahead.
     *
     * @param to where the sums of the first one's lanes go; those of the next {@code step} further
     */
    private static void direct(Tensor w, int first, int apart, float[] xs, int from, int m, float[] lanes, int to,
            int step) {
        int k = w.cols();
        long row = (long) w.dtype().bytes() * k;
        MemorySegment data = w.data();
        for (int i = 0; i < m; i++) {
            if (w.dtype() == DType.BF16) {
                VectorDots.bf16(data, first * row, apart * row, xs, from + i * k, k, lanes, to + i * SUMS, step);
            } else {
                VectorDots.f32(data, first * row, apart * row, xs, from + i * k, k, lanes, to + i * SUMS, step);
            }
        }
    }

    private static void add(Tensor w, int first, int count, float[] xs, int from, int m, float[] lanes, int at,
            float[] sums) {
        for (int i = 0; i < m; i++) {
            VectorDots.add(w, first, count, xs, from + i * w.cols(), lanes, sums, at + i * SUMS);
        }
    }

    private static void decoded(Tensor w, int first, int count, float[] xs, int m, float[] sums) {
        int k = w.cols();
        int row = FEW_ROWS * SUMS;
        for (int j = 0; j < count; j++) {
            Floats.load(w, (long) (first + j) * k, k, sums, row);
            for (int i = 0; i < m; i++) {
                sums[i * SUMS + j] = dot(sums, row, xs, i * k, k);
            }
        }
    }

    /** {@code Σ a[at + p]·b[from + p]} over {@code n} elements, in four interleaved vector sums. */
    public static float dot(float[] a, int at, float[] b, int from, int n) {
        int step = 4 * Lanes.L;
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        int p = 0;
        for (; p <= n - step; p += step) {
            s0 = term(a, at, b, from, p, s0);
            s1 = term(a, at, b, from, p + Lanes.L, s1);
            s2 = term(a, at, b, from, p + 2 * Lanes.L, s2);
            s3 = term(a, at, b, from, p + 3 * Lanes.L, s3);
        }
        for (; p <= n - Lanes.L; p += Lanes.L) {
            s0 = term(a, at, b, from, p, s0);
        }
        float sum = Lanes.sum(s0.add(s1).add(s2.add(s3)));
        for (; p < n; p++) {
            sum = Math.fma(a[at + p], b[from + p], sum);
        }
        return sum;
    }

    private static FloatVector term(float[] a, int at, float[] b, int from, int p, FloatVector sum) {
        return FloatVector.fromArray(Lanes.F, a, at + p).fma(FloatVector.fromArray(Lanes.F, b, from + p), sum);
    }

    private static void scale(float[] x, int at, int n, float alpha) {
        if (alpha != 1) {
            for (int i = at; i < at + n; i++) {
                x[i] *= alpha;
            }
        }
    }

    private static int roundUp(int n, int step) {
        return (n + step - 1) / step * step;
    }
}
