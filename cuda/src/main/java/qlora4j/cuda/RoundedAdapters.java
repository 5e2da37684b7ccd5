package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The adapters of layers that take the same x, rounded to bfloat16 in one launch, and gradients added in one. */
final class RoundedAdapters {
    static final int ALIGNMENT = 256;
    /** Bytes of adapters, each by {@link #bytes}, for which there is room. */
    static final long MOST_BYTES = Products.CALLER_BYTES - ALIGNMENT;

    private static final int THREADS = 256;
    private static final int ROUNDED_PER_BLOCK = 8 * THREADS;
    private static final int ADDED_PER_BLOCK = 4 * THREADS;
    /** {@code struct Part} of lora.cu. */
    private static final int PART_BYTES = 4 * 8;
    private static final int PARTS = 2 * NarrowLora.MOST;

    private final CudaBackend cuda;
    private final Kernel roundParts;
    private final Kernel addParts;
    private final ThreadLocal<Parts> parts = ThreadLocal.withInitial(Parts::new);

    RoundedAdapters(CudaBackend cuda) {
        this.cuda = cuda;
        roundParts = cuda.modules().kernel("lora", "round_parts");
        addParts = cuda.modules().kernel("lora", "add_parts");
    }

    /** {@code struct Parts} of lora.cu being filled. */
    static final class Parts {
        private final MemorySegment memory = Arena.ofAuto().allocate((long) PARTS * PART_BYTES, 8);
        private int count;
        private long longest;

        private Parts clear() {
            count = 0;
            longest = 0;
            memory.fill((byte) 0);
            return this;
        }

        void add(long from, long to, long n, double factor) {
            long at = (long) PART_BYTES * count++;
            memory.set(ValueLayout.JAVA_FLOAT, at + 24, (float) factor);
            memory.set(ValueLayout.JAVA_LONG, at, from);
            memory.set(ValueLayout.JAVA_LONG, at + 8, to);
            memory.set(ValueLayout.JAVA_LONG, at + 16, n);
            longest = Math.max(longest, n);
        }

        private void launch(CudaStream s, Kernel kernel, int perBlock) {
            kernel.launch(s, Math.ceilDiv(longest, perBlock), count, 1, THREADS, 0, Kernel.args().bytes(memory, 8));
        }
    }

    /**
     * The adapters of some layers, rounded; entries of layers without one are null.
     *
     * @param b each B times its scale
     */
    record Group(LoraPair[] pairs, int[] first, int ranks, Matrix a, Matrix[] b) {
        /** u or du of all layers in the memory of the first; null where no layer has an adapter. */
        Matrix all(Tensor[] inner) {
            for (Tensor t : inner) {
                if (t != null) {
                    return new Matrix(t.data().address(), DType.BF16, t.rows(), ranks, ranks);
                }
            }
            return null;
        }

        /** That of a layer. */
        Matrix part(Matrix all, int i) {
            return all.columns(first[i], pairs[i].rank());
        }

        boolean trained() {
            for (LoraPair p : pairs) {
                if (p != null && !p.trained()) {
                    return false;
                }
            }
            return ranks > 0;
        }
    }

    /** What so many elements take in bfloat16, to the next multiple of the alignment. */
    static long bytes(long elements) {
        return Math.ceilDiv(DType.BF16.bytes(elements), ALIGNMENT) * ALIGNMENT;
    }

    /** Workspace of layers of which the largest weight has {@code size} elements: gate and up are in it at once. */
    static long workspaceBytes(long size) {
        return Math.max(Products.SCRATCH_BYTES, Products.OPERANDS + 2 * bytes(size));
    }

    /** The calling thread's parts, none yet. */
    Parts parts() {
        return parts.get().clear();
    }

    /** {@code to += from} of all parts. */
    void add(CudaStream s, Parts all) {
        all.launch(s, addParts, ADDED_PER_BLOCK);
    }

    /** Rounds the adapters into the workspace, after making it as large as the products to come want it. */
    Group round(CudaStream s, Linear.Call[] calls, Tensor x, Tensor[] u) {
        int n = calls.length;
        LoraPair[] pairs = new LoraPair[n];
        int[] first = new int[n];
        int ranks = 0;
        long need = Products.SCRATCH_BYTES;
        for (int i = 0; i < n; i++) {
            if (calls[i].weight() instanceof LinearWeight.Quantized q) {
                need = Math.max(need, workspaceBytes(q.w().size()));
            }
            pairs[i] = u[i] == null ? null : calls[i].single();
            first[i] = ranks;
            ranks += pairs[i] == null ? 0 : pairs[i].rank();
        }
        long workspace = cuda.operands(need);
        long at = workspace + Products.CALLER;
        Matrix a = new Matrix(at, DType.BF16, ranks, x.cols(), x.cols());
        Matrix[] b = new Matrix[n];
        Parts all = parts();
        for (LoraPair p : pairs) {
            if (p != null) {
                all.add(p.a().data().address(), at, p.a().size(), 1);
                at += DType.BF16.bytes(p.a().size());
            }
        }
        at = Math.ceilDiv(at, ALIGNMENT) * ALIGNMENT;
        for (int i = 0; i < n; i++) {
            if (pairs[i] != null) {
                Tensor from = pairs[i].b();
                all.add(from.data().address(), at, from.size(), pairs[i].scale());
                b[i] = new Matrix(at, DType.BF16, from.rows(), from.cols(), from.cols());
                at += bytes(from.size());
            }
        }
        all.launch(s, roundParts, ROUNDED_PER_BLOCK);
        return new Group(pairs, first, ranks, a, b);
    }
}
