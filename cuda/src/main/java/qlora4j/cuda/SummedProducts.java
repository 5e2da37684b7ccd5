package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import qlora4j.blockwise.DynamicMap;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.cuda.WeightsAhead.Next;
import qlora4j.nf4.Codebook;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Large sums of bfloat16 products on compute capability 9.0: {@code gemm_hopper.cu}. The product with W and the one with
 * an adapter are one, as if the columns of x and u, of W and B, lay side by side; nothing of a sum is rounded before the
 * end. SwiGLU and its gradient can be made of the sums before they are written. Weights of the next product can be
 * dequantized meanwhile ({@link WeightsAhead}). The system property {@code qlora4j.cuda.summed} is {@code never}, or
 * {@code always} for sums of any size, for tests and comparisons.
 */
final class SummedProducts {
    /**
     * A product of a sum; both operands of {@code NT} or {@code NN}.
     *
     * @param shift columns of A before those that meet B's, in {@link #gated} sums of {@code NT}; the others of A count
     *         nothing
     */
    record Term(Matrix a, Matrix b, int shift) {
        Term(Matrix a, Matrix b) {
            this(a, b, 0);
        }
    }

    /**
     * {@code C = sum of terms + residual + bias}.
     *
     * @param residual like C, or null; may be C
     * @param bias [n], or null; only in {@code NT}
     */
    record Output(Matrix c, Matrix residual, Tensor bias, List<Term> terms) {
    }

    /** The system property: always, never, or empty. */
    static final String PROPERTY = "qlora4j.cuda.summed";

    /** As in gemm_hopper.cu. */
    static final int MOST_TERMS = 6;
    static final int MOST_OUTPUTS = 3;
    private static final int TILE_ROWS = 128;
    private static final int TILE_COLUMNS = 256;
    private static final int STEP = 64;
    private static final int STAGES = 4;
    private static final int THREADS = 384;
    private static final int CLUSTER = 2;
    /** Stages, four pieces of 64 x 64 outputs, barriers, two tables, and what the alignment to 1024 bytes may cost. */
    private static final int SHARED_BYTES = STAGES * (TILE_ROWS + TILE_COLUMNS) * STEP * 2 + 4 * 64 * 64 * 2
            + 128 + (Codebook.SIZE + DynamicMap.SIZE) * 4 + 1024;
    private static final int STORED_ROWS = 64;
    /** Bits of {@code Work.gated}. */
    private static final int GATED = 1;
    private static final int KEPT = 2;
    private static final int GATED_ROWS = 64;
    /** Pairs of tiles of rows that are worked on together: their x stays in the second-level cache. */
    private static final int BAND = 8;
    /** The share of multiprocessors that must have work on average: with fewer, cuBLAS' smaller tiles are ahead. */
    private static final double LEAST_BUSY = 0.6;

    private static final int TERM_BYTES = 2 * TensorMaps.BYTES + 64;
    private static final int OUTPUT_BYTES = 2 * TensorMaps.BYTES + 64;
    private static final int OUTPUTS = MOST_TERMS * TERM_BYTES;
    private static final int PARTS = OUTPUTS + MOST_OUTPUTS * OUTPUT_BYTES;
    private static final int SHAPE = PARTS + WeightsAhead.PARTS_BYTES;
    private static final int WORK_BYTES = Math.ceilDiv(SHAPE + 5 * 4, TensorMaps.ALIGNMENT) * TensorMaps.ALIGNMENT;

    private final boolean hopper;
    private final boolean always;
    private final int multiprocessors;
    private final Kernel nt;
    private final Kernel nn;
    private final ThreadLocal<Work> works = ThreadLocal.withInitial(Work::new);

    /** {@code struct Work} of gemm_hopper.cu being filled. */
    private static final class Work {
        private final MemorySegment memory = Arena.ofAuto().allocate(WORK_BYTES, 2L * TensorMaps.ALIGNMENT);
        private final TensorMaps maps = new TensorMaps();
    }

    SummedProducts(CudaBackend cuda) {
        this(cuda, cuda.context().multiprocessors());
    }

    /** On so many multiprocessors. */
    SummedProducts(CudaBackend cuda, int multiprocessors) {
        String asked = System.getProperty(PROPERTY, "");
        hopper = cuda.modules().hopper("gemm_hopper") && !asked.equals("never");
        always = asked.equals("always");
        this.multiprocessors = multiprocessors;
        nt = cuda.modules().kernel("gemm_hopper", "gemm_hopper_nt");
        nn = cuda.modules().kernel("gemm_hopper", "gemm_hopper_nn");
    }

    /** Whether the kernel can make these outputs, which have the same rows, and is kept busy by them. */
    boolean takes(Layout layout, List<Output> outputs) {
        return can(layout, outputs) && (always || isBusy(columns(outputs), outputs.getFirst().c().rows()));
    }

    private boolean isBusy(long columns, int m) {
        long places = Math.ceilDiv(clusters(columns, m) * CLUSTER, multiprocessors) * multiprocessors;
        return columns * Math.ceilDiv(m, TILE_ROWS) >= LEAST_BUSY * places;
    }

    private static long columns(List<Output> outputs) {
        return outputs.stream().mapToLong(o -> Math.ceilDiv(o.c().cols(), TILE_COLUMNS)).sum();
    }

    private static long clusters(long columns, int m) {
        return columns * Math.ceilDiv(m, CLUSTER * TILE_ROWS);
    }

    /** Whether the kernel can make these outputs. */
    boolean can(Layout layout, List<Output> outputs) {
        if (!hopper || layout == Layout.TN || outputs.isEmpty() || outputs.size() > MOST_OUTPUTS) {
            return false;
        }
        int terms = 0;
        for (Output o : outputs) {
            terms += o.terms().size();
            if (o.terms().isEmpty() || !can(o.c()) || o.c().cols() != o.c().stride()
                    || o.residual() != null && !can(o.residual())
                    || o.bias() != null && (layout == Layout.NN || o.bias().dtype() != o.c().type())) {
                return false;
            }
            for (Term t : o.terms()) {
                if (!can(t.a()) || !can(t.b())) {
                    return false;
                }
            }
        }
        return terms <= MOST_TERMS;
    }

    /** Whether the kernel can make {@link #gated} sums of this, and is kept busy by them. */
    boolean takesGated(Layout layout, List<Output> outputs) {
        Matrix first = outputs.getFirst().c();
        return canGate(outputs) && (always || isBusy(gatedColumns(layout, first), first.rows()));
    }

    /** Whether the kernel can make {@link #gated} sums of this. */
    boolean canGate(List<Output> outputs) {
        Matrix first = outputs.getFirst().c();
        return hopper && outputs.stream().allMatch(o -> canGate(o, first))
                && outputs.stream().mapToInt(o -> o.terms().size()).sum() <= MOST_TERMS;
    }

    private static boolean canGate(Output o, Matrix first) {
        return can(o.c()) && o.c().cols() == first.cols() && o.bias() == null
                && (o.residual() == null || can(o.residual()))
                && o.terms().stream().allMatch(t -> can(t.a()) && can(t.b()));
    }

    /**
     * Columns of gate and up that go in a launch, all others in another, whose weights are made ready meanwhile: about
     * half of them, so that both together take the multiprocessors no more turns than one launch would. All where they
     * are few.
     */
    int gatedPart(int columns, int m) {
        int tile = TILE_COLUMNS / 2;
        int all = Math.ceilDiv(columns, tile);
        if (!hopper || all < 2 || !always && !isBusy(all, m)) {
            return columns;
        }
        int best = Math.ceilDiv(all, 2);
        for (int first = best; first < all; first++) {
            if (turns(first, m) + turns(all - first, m) < turns(best, m) + turns(all - best, m)) {
                best = first;
            }
        }
        return best * tile;
    }

    private long turns(long columns, int m) {
        return Math.ceilDiv(clusters(columns, m), multiprocessors / CLUSTER);
    }

    /** In {@code NT}, where half of them are up's, columns of tiles of gate and up. */
    private static long gatedColumns(Layout layout, Matrix gate) {
        return Math.ceilDiv(gate.cols(), layout == Layout.NT ? TILE_COLUMNS / 2 : TILE_COLUMNS);
    }

    private static boolean can(Matrix m) {
        return m.type() == DType.BF16 && TensorMaps.takes(m);
    }

    /** Enqueues the outputs, which it {@link #can} make; shapes are trusted. */
    void multiply(CudaStream s, Layout layout, List<Output> outputs) {
        multiply(s, layout, outputs, null, Next.NOTHING);
    }

    /** The same, and dequantizes weights that {@code ahead} has room for meanwhile. */
    void multiply(CudaStream s, Layout layout, List<Output> outputs, WeightsAhead ahead, Next next) {
        multiply(s, layout, outputs, outputs.size(), columns(outputs), 0, ahead, next);
    }

    /**
     * Enqueues sums around SwiGLU, which it {@link #takesGated}.
     *
     * <p>{@code NT}: {@code gate, up, silu(gate)·up}, of which the first two have terms, in A the same ones. {@code NN}:
     * gradients of gate and up, with gate and up as residuals, which may be in the same place; the first has the terms of
     * the gradient of {@code silu(gate)·up}.
     *
     * @param kept whether gate and up are written in {@code NT}
     */
    void gated(CudaStream s, Layout layout, List<Output> outputs, boolean kept) {
        gated(s, layout, outputs, kept, null, Next.NOTHING);
    }

    /** The same, and dequantizes weights that {@code ahead} has room for meanwhile. */
    void gated(CudaStream s, Layout layout, List<Output> outputs, boolean kept, WeightsAhead ahead, Next next) {
        multiply(s, layout, outputs, 1, gatedColumns(layout, outputs.getFirst().c()), GATED | (kept ? KEPT : 0), ahead,
                next);
    }

    private void multiply(CudaStream s, Layout layout, List<Output> outputs, int count, long allColumns, int gated,
            WeightsAhead ahead, Next next) {
        Work w = works.get();
        int boxRows = layout == Layout.NN ? STEP : gated != 0 ? GATED_ROWS : TILE_COLUMNS / CLUSTER;
        int term = 0;
        int m = outputs.getFirst().c().rows();
        long multiplications = 0;
        for (int i = 0; i < outputs.size(); i++) {
            Output o = outputs.get(i);
            MemorySegment to = w.memory.asSlice(OUTPUTS + (long) i * OUTPUT_BYTES, OUTPUT_BYTES);
            w.maps.write(o.c(), STORED_ROWS, to);
            if (o.residual() != null) {
                w.maps.write(o.residual(), STORED_ROWS, to.asSlice(TensorMaps.BYTES));
            }
            long rest = 2L * TensorMaps.BYTES;
            to.set(ValueLayout.JAVA_LONG, rest, o.bias() == null ? 0 : o.bias().data().address());
            to.set(ValueLayout.JAVA_INT, rest + 8, o.c().cols());
            to.set(ValueLayout.JAVA_INT, rest + 12, term);
            to.set(ValueLayout.JAVA_INT, rest + 16, o.terms().size());
            to.set(ValueLayout.JAVA_INT, rest + 20, o.residual() == null || gated != 0 ? 0 : 1);
            for (Term t : o.terms()) {
                MemorySegment at = w.memory.asSlice((long) term++ * TERM_BYTES, TERM_BYTES);
                multiplications += o.c().elements() * t.a().cols();
                w.maps.write(t.a(), TILE_ROWS, at);
                w.maps.write(t.b(), boxRows, at.asSlice(TensorMaps.BYTES));
                at.set(ValueLayout.JAVA_INT, 2L * TensorMaps.BYTES, Math.ceilDiv(t.a().cols(), STEP));
                at.set(ValueLayout.JAVA_INT, 2L * TensorMaps.BYTES + 4, t.shift());
            }
        }
        MemorySegment parts = w.memory.asSlice(PARTS, WeightsAhead.PARTS_BYTES).fill((byte) 0);
        if (ahead != null) {
            ahead.write(next, multiplications, parts);
        }
        int columns = Math.toIntExact(allColumns);
        MemorySegment.copy(new int[]{m, count, columns, BAND, gated}, 0, w.memory, ValueLayout.JAVA_INT, SHAPE, 5);
        (layout == Layout.NT ? nt : nn).launchEarly(s,
                CLUSTER * Math.min(clusters(columns, m), multiprocessors / CLUSTER), 1, THREADS, SHARED_BYTES,
                Kernel.args().bytes(w.memory, TensorMaps.ALIGNMENT));
    }
}
