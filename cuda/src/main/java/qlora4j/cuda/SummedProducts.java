package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Large sums of bfloat16 products on compute capability 9.0: {@code gemm_hopper.cu}. The product with W and the one with
 * an adapter are one, as if the columns of x and u, of W and B, lay side by side; nothing of a sum is rounded before the
 * end. The system property {@code qlora4j.cuda.summed} is {@code never}, or {@code always} for sums of any size, for tests
 * and comparisons.
 */
final class SummedProducts {
    /** A product of a sum; both operands of {@code NT} or {@code NN}. */
    record Term(Matrix a, Matrix b) {
    }

    /**
     * {@code C = sum of terms + residual + bias}.
     *
     * @param residual like C, without gaps, or null; may be C
     * @param bias [n], or null
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
    /** Stages, four pieces of 64 x 64 outputs, barriers, and what the alignment to 1024 bytes may cost. */
    private static final int SHARED_BYTES = STAGES * (TILE_ROWS + TILE_COLUMNS) * STEP * 2 + 4 * 64 * 64 * 2
            + STAGES * 2 * 8 + 1024;
    private static final int STORED_ROWS = 64;
    /** Pairs of tiles of rows that are worked on together: their x stays in the second-level cache. */
    private static final int BAND = 8;
    /** The share of multiprocessors that must have work on average: with fewer, cuBLAS' smaller tiles are ahead. */
    private static final double LEAST_BUSY = 0.6;

    private static final int TERM_BYTES = 2 * TensorMaps.BYTES + 64;
    private static final int OUTPUT_BYTES = TensorMaps.BYTES + 64;
    private static final int OUTPUTS = MOST_TERMS * TERM_BYTES;
    private static final int SHAPE = OUTPUTS + MOST_OUTPUTS * OUTPUT_BYTES;
    private static final int WORK_BYTES = Math.ceilDiv(SHAPE + 4 * 4, TensorMaps.ALIGNMENT) * TensorMaps.ALIGNMENT;

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
        return can(layout, outputs) && (always || isBusy(outputs));
    }

    private boolean isBusy(List<Output> outputs) {
        long columns = columns(outputs);
        int m = outputs.getFirst().c().rows();
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
                    || o.residual() != null && (o.residual().type() != o.c().type()
                            || o.residual().stride() != o.c().stride())
                    || o.bias() != null && o.bias().dtype() != o.c().type()) {
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

    private static boolean can(Matrix m) {
        return m.type() == DType.BF16 && TensorMaps.takes(m);
    }

    /** Enqueues the outputs, which it {@link #can} make; shapes are trusted. */
    void multiply(CudaStream s, Layout layout, List<Output> outputs) {
        Work w = works.get();
        int boxRows = layout == Layout.NT ? TILE_COLUMNS / CLUSTER : STEP;
        int term = 0;
        int m = outputs.getFirst().c().rows();
        for (int i = 0; i < outputs.size(); i++) {
            Output o = outputs.get(i);
            MemorySegment to = w.memory.asSlice(OUTPUTS + (long) i * OUTPUT_BYTES, OUTPUT_BYTES);
            w.maps.write(o.c(), STORED_ROWS, to);
            long rest = TensorMaps.BYTES;
            to.set(ValueLayout.JAVA_LONG, rest, o.residual() == null ? 0 : o.residual().address());
            to.set(ValueLayout.JAVA_LONG, rest + 8, o.bias() == null ? 0 : o.bias().data().address());
            to.set(ValueLayout.JAVA_INT, rest + 16, o.c().cols());
            to.set(ValueLayout.JAVA_INT, rest + 20, term);
            to.set(ValueLayout.JAVA_INT, rest + 24, o.terms().size());
            for (Term t : o.terms()) {
                MemorySegment at = w.memory.asSlice((long) term++ * TERM_BYTES, TERM_BYTES);
                w.maps.write(t.a(), TILE_ROWS, at);
                w.maps.write(t.b(), boxRows, at.asSlice(TensorMaps.BYTES));
                at.set(ValueLayout.JAVA_INT, 2L * TensorMaps.BYTES, Math.ceilDiv(t.a().cols(), STEP));
            }
        }
        int columns = Math.toIntExact(columns(outputs));
        MemorySegment.copy(new int[]{m, outputs.size(), columns, BAND}, 0, w.memory, ValueLayout.JAVA_INT, SHAPE, 4);
        (layout == Layout.NT ? nt : nn).launch(s, CLUSTER * Math.min(clusters(columns, m), multiprocessors / CLUSTER),
                1, 1, THREADS, SHARED_BYTES, Kernel.args().bytes(w.memory, TensorMaps.ALIGNMENT));
    }
}
