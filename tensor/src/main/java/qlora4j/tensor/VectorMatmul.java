package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;

/** Dense products on the tiled {@link VectorGemm}; few rows (decoding) as dot products along the weight's rows. */
public final class VectorMatmul implements MatmulKernels {
    /** Up to this many rows of x, {@link #nt} reads each weight row once, straight through. */
    public static final int FEW_ROWS = 4;
    private static final int ROWS_PER_TASK = 64;
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private final Team team;
    private final VectorGemm gemm;
    private final float[][] rowScratch;
    private float[] few = new float[0];
    private final Strip[] strips;

    /** One thread's L rows of a weight that are to become columns of a panel. */
    private static final class Strip {
        private final float[] rows = new float[Lanes.L * VectorGemm.KC];
        private final VectorTranspose transpose = new VectorTranspose();
    }

    VectorMatmul(Team team) {
        this.team = team;
        this.gemm = new VectorGemm(team);
        this.rowScratch = new float[team.size()][0];
        this.strips = new Strip[team.size()];
        Arrays.setAll(strips, worker -> new Strip());
    }

    @Override
    public void nt(Stream s, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        if (x.rows() <= FEW_ROWS && w.rows() >= ROWS_PER_TASK) {
            ntFewRows(x, w, alpha, y, accumulate);
            return;
        }
        if (narrow(y)) {
            gemm.multiplyTransposed(w, false, alpha, columnsOf(x), w.cols(), y, accumulate);
        } else {
            gemm.multiply(x, false, alpha, columnsOf(w), w.cols(), y, accumulate);
        }
    }

    @Override
    public void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate) {
        if (narrow(dx)) {
            gemm.multiplyTransposed(w, true, alpha, columnsOf(dy), w.rows(), dx, accumulate);
        } else {
            gemm.multiply(dy, false, alpha, rowsOf(w), w.rows(), dx, accumulate);
        }
    }

    @Override
    public void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate) {
        // Packing transposes, panels are copied: the narrower matrix is packed.
        if (dy.cols() <= x.cols()) {
            gemm.multiply(dy, true, alpha, rowsOf(x), x.rows(), dw, accumulate);
        } else {
            gemm.multiplyTransposed(x, true, alpha, rowsOf(dy), x.rows(), dw, accumulate);
        }
    }

    /** A product with few columns, such as an adapter's, would pack a large matrix for one panel: its transpose does not. */
    private static boolean narrow(Tensor c) {
        return c.cols() <= VectorGemm.NC && c.cols() < c.rows();
    }

    private VectorGemm.PanelSource columnsOf(Tensor w) {
        int k = w.cols();
        return (p0, pc, j0, jc, panels, worker) -> {
            Strip own = strips[worker];
            for (int j = 0; j < jc; j += Lanes.L) {
                int count = Math.min(Lanes.L, jc - j);
                for (int i = 0; i < count; i++) {
                    Floats.load(w, (long) (j0 + j + i) * k + p0, pc, own.rows, i * VectorGemm.KC);
                }
                own.transpose.run(own.rows, 0, VectorGemm.KC, count, pc, panels,
                        j / VectorGemm.NC * VectorGemm.PANEL + j % VectorGemm.NC, VectorGemm.NC);
            }
        };
    }

    private static VectorGemm.PanelSource rowsOf(Tensor b) {
        int n = b.cols();
        return (p0, pc, j0, jc, panels, worker) -> {
            for (int p = 0; p < pc; p++) {
                long row = (long) (p0 + p) * n + j0;
                for (int j = 0, at = p * VectorGemm.NC; j < jc; j += VectorGemm.NC, at += VectorGemm.PANEL) {
                    Floats.load(b, row + j, Math.min(VectorGemm.NC, jc - j), panels, at);
                }
            }
        };
    }

    private float[][] scratch(int length) {
        for (int i = 0; i < rowScratch.length; i++) {
            if (rowScratch[i].length < length) {
                rowScratch[i] = new float[length];
            }
        }
        return rowScratch;
    }

    private synchronized void ntFewRows(Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        int m = x.rows();
        int k = x.cols();
        int n = w.rows();
        if (few.length < m * k) {
            few = new float[m * k];
        }
        float[] xs = few;
        Floats.load(x, 0, m * k, xs, 0);
        float[][] rows = scratch(k + FEW_ROWS * ROWS_PER_TASK);
        team.run((n + ROWS_PER_TASK - 1) / ROWS_PER_TASK, (task, worker) -> {
            float[] row = rows[worker];
            int from = task * ROWS_PER_TASK;
            int count = Math.min(ROWS_PER_TASK, n - from);
            for (int j = 0; j < count; j++) {
                long at = (long) (from + j) * k;
                if (w.dtype() != DType.F32) {
                    Floats.load(w, at, k, row, 0);
                }
                for (int i = 0; i < m; i++) {
                    row[k + i * ROWS_PER_TASK + j] = alpha * (w.dtype() == DType.F32
                            ? dot(w.data(), at * Float.BYTES, xs, i * k, k)
                            : dot(row, xs, i * k, k));
                }
            }
            for (int i = 0; i < m; i++) {
                int sums = k + i * ROWS_PER_TASK;
                long to = (long) i * n + from;
                if (accumulate) {
                    Floats.add(y, to, count, row, sums);
                }
                Floats.store(row, sums, count, y, to);
            }
        });
    }

    /** {@code Σ a[p]·b[from + p]} over {@code n} elements, in four interleaved vector sums. */
    public static float dot(float[] a, float[] b, int from, int n) {
        int step = 4 * Lanes.L;
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        int p = 0;
        for (; p <= n - step; p += step) {
            s0 = term(a, b, from, p, s0);
            s1 = term(a, b, from, p + Lanes.L, s1);
            s2 = term(a, b, from, p + 2 * Lanes.L, s2);
            s3 = term(a, b, from, p + 3 * Lanes.L, s3);
        }
        for (; p <= n - Lanes.L; p += Lanes.L) {
            s0 = term(a, b, from, p, s0);
        }
        float sum = Lanes.sum(s0.add(s1).add(s2.add(s3)));
        for (; p < n; p++) {
            sum = Math.fma(a[p], b[from + p], sum);
        }
        return sum;
    }

    /** The same with the first factor as float32 in memory, from a byte offset on. */
    private static float dot(MemorySegment a, long offset, float[] b, int from, int n) {
        int step = 4 * Lanes.L;
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        int p = 0;
        for (; p <= n - step; p += step) {
            s0 = term(a, offset, b, from, p, s0);
            s1 = term(a, offset, b, from, p + Lanes.L, s1);
            s2 = term(a, offset, b, from, p + 2 * Lanes.L, s2);
            s3 = term(a, offset, b, from, p + 3 * Lanes.L, s3);
        }
        for (; p <= n - Lanes.L; p += Lanes.L) {
            s0 = term(a, offset, b, from, p, s0);
        }
        float sum = Lanes.sum(s0.add(s1).add(s2.add(s3)));
        for (; p < n; p++) {
            sum = Math.fma(a.get(FLOAT, offset + 4L * p), b[from + p], sum);
        }
        return sum;
    }

    private static FloatVector term(MemorySegment a, long offset, float[] b, int from, int p, FloatVector sum) {
        return FloatVector.fromMemorySegment(Lanes.F, a, offset + 4L * p, ByteOrder.LITTLE_ENDIAN)
                .fma(FloatVector.fromArray(Lanes.F, b, from + p), sum);
    }

    private static FloatVector term(float[] a, float[] b, int from, int p, FloatVector sum) {
        return FloatVector.fromArray(Lanes.F, a, p).fma(FloatVector.fromArray(Lanes.F, b, from + p), sum);
    }
}
