package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Tensor;

/**
 * Layers of one x over many rows in bfloat16, each with at most one adapter for all rows. Products round u, du, A and B to
 * bfloat16, so u and du are kept rounded, in the memory that they have in float32: of all layers beside each other,
 * {@code [N, Σr]}, as A is {@code [Σr, in]}. Then one product makes u of all layers, one dA, and one their part of dx.
 * Adapters are rounded in one launch.
 */
final class NarrowLora {
    /** Layers that go together. */
    private static final int MOST = 3;
    private static final int THREADS = 256;
    private static final int ROUNDED_PER_BLOCK = 8 * THREADS;
    private static final int ADDED_PER_BLOCK = 4 * THREADS;
    private static final int ALIGNMENT = 256;
    /** {@code struct Part} of lora.cu. */
    private static final int PART_BYTES = 3 * 8;
    private static final int PARTS = 2 * MOST;

    private final CudaBackend cuda;
    private final CudaBlockwise blockwise;
    private final Products products;
    private final CudaLora lora;
    private final Kernel roundParts;
    private final Kernel addParts;
    private final ThreadLocal<Parts> parts = ThreadLocal.withInitial(Parts::new);

    NarrowLora(CudaBackend cuda, CudaBlockwise blockwise, Products products, CudaLora lora) {
        this.cuda = cuda;
        this.blockwise = blockwise;
        this.products = products;
        this.lora = lora;
        roundParts = cuda.modules().kernel("lora", "round_parts");
        addParts = cuda.modules().kernel("lora", "add_parts");
    }

    /** {@code struct Parts} of lora.cu being filled. */
    private static final class Parts {
        private final MemorySegment memory = Arena.ofAuto().allocate((long) PARTS * PART_BYTES, 8);
        private int count;
        private long longest;

        Parts clear() {
            count = 0;
            longest = 0;
            memory.fill((byte) 0);
            return this;
        }

        void add(long from, long to, long n) {
            long at = (long) PART_BYTES * count++;
            memory.set(ValueLayout.JAVA_LONG, at, from);
            memory.set(ValueLayout.JAVA_LONG, at + 8, to);
            memory.set(ValueLayout.JAVA_LONG, at + 16, n);
            longest = Math.max(longest, n);
        }

        void launch(CudaStream s, Kernel kernel, int perBlock) {
            kernel.launch(s, Math.ceilDiv(longest, perBlock), count, 1, THREADS, 0, Kernel.args().bytes(memory, 8));
        }
    }

    /** The adapters of some layers, rounded; entries of layers without one are null. */
    private record Group(LoraPair[] pairs, int[] first, int ranks, Matrix a, Matrix[] b) {
        /** u or du of all layers in the memory of the first. */
        Matrix all(Tensor[] inner) {
            for (Tensor t : inner) {
                if (t != null) {
                    return new Matrix(t.data().address(), DType.BF16, t.rows(), ranks, ranks);
                }
            }
            throw new IllegalStateException("no layer has an adapter");
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
            return true;
        }
    }

    /**
     * Whether these layers go together, and only by this class. It is decided by what the forward and the backward of a
     * layer have in common.
     */
    static boolean takes(Linear.Call[] calls, Tensor x, Tensor[] u) {
        if (x.dtype() != DType.BF16 || x.rows() <= CudaMatmul.FEW_ROWS || calls.length > MOST) {
            return false;
        }
        long end = 0;
        long bytes = 0;
        for (int i = 0; i < calls.length; i++) {
            if (u[i] == null) {
                continue;
            }
            LoraPair pair = calls[i].single();
            if (pair == null || pair.dora() != null || pair.a().dtype() != DType.F32 || pair.b().dtype() != DType.F32
                    || pair.rank() != u[i].cols() || end != 0 && u[i].data().address() != end) {
                return false;
            }
            end = u[i].data().address() + u[i].bytes();
            bytes += roundedBytes(pair.a()) + roundedBytes(pair.b());
        }
        return end != 0 && bytes + ALIGNMENT <= Products.CALLER_BYTES;
    }

    private static long roundedBytes(Tensor t) {
        return Math.ceilDiv(DType.BF16.bytes(t.size()), ALIGNMENT) * ALIGNMENT;
    }

    /** Rounds the adapters into the workspace, after making it as large as the products to come want it. */
    private Group rounded(CudaStream s, Linear.Call[] calls, Tensor x, Tensor[] u) {
        int n = calls.length;
        LoraPair[] pairs = new LoraPair[n];
        int[] first = new int[n];
        int ranks = 0;
        long need = Products.SCRATCH_BYTES;
        for (int i = 0; i < n; i++) {
            if (calls[i].weight() instanceof LinearWeight.Quantized q) {
                need = Math.max(need, CudaBlockwise.workspaceBytes(x.dtype(), q.w().size()));
            }
            pairs[i] = u[i] == null ? null : calls[i].single();
            first[i] = ranks;
            ranks += pairs[i] == null ? 0 : pairs[i].rank();
        }
        long at = cuda.workspace(need) + Products.CALLER;
        Matrix a = new Matrix(at, DType.BF16, ranks, x.cols(), x.cols());
        Matrix[] b = new Matrix[n];
        Parts all = parts.get().clear();
        for (LoraPair p : pairs) {
            if (p != null) {
                all.add(p.a().data().address(), at, p.a().size());
                at += DType.BF16.bytes(p.a().size());
            }
        }
        at = Math.ceilDiv(at, ALIGNMENT) * ALIGNMENT;
        for (int i = 0; i < n; i++) {
            if (pairs[i] != null) {
                Tensor from = pairs[i].b();
                all.add(from.data().address(), at, from.size());
                b[i] = new Matrix(at, DType.BF16, from.rows(), from.cols(), from.cols());
                at += roundedBytes(from);
            }
        }
        all.launch(s, roundParts, ROUNDED_PER_BLOCK);
        return new Group(pairs, first, ranks, a, b);
    }

    /**
     * See {@code LoraKernels.forward}.
     *
     * @param xd x after dropout, or x
     */
    void forward(CudaStream s, Linear.Call[] calls, Tensor x, Tensor xd, Tensor[] residual, Tensor[] y, Tensor[] u) {
        Group g = rounded(s, calls, x, u);
        Matrix inner = g.all(u);
        products.multiply(s, Layout.NT, Matrix.of(xd), g.a, inner, Epilogue.plain(1, false));
        for (int i = 0; i < calls.length; i++) {
            if (y[i] == null) {
                continue;
            }
            Linear.Call call = calls[i];
            Variants.same("residual", y[i], residual[i]);
            Variants.same("bias", y[i], call.bias());
            LoraPair pair = g.pairs[i];
            if (call.weight() instanceof LinearWeight.Quantized q && blockwise.fuses(x, q.w())) {
                blockwise.multiply(s, x, q.w(), y[i], false, residual[i], call.bias());
                if (pair != null) {
                    up(s, g, inner, i, y[i], true, null, null);
                }
                continue;
            }
            boolean begun = pair != null || residual[i] != null || call.bias() != null;
            if (pair != null) {
                up(s, g, inner, i, y[i], false, residual[i], call.bias());
            } else if (begun) {
                lora.addRows(s, residual[i], call.bias(), y[i]);
            }
            lora.product(s, call.weight(), x, y[i], begun);
        }
    }

    /** {@code y = scale·u·Bᵀ + residual + bias}, or added to y. */
    private void up(CudaStream s, Group g, Matrix inner, int i, Tensor y, boolean accumulate, Tensor residual,
            Tensor bias) {
        products.multiply(s, Layout.NT, g.part(inner, i), g.b[i], Matrix.of(y),
                new Epilogue((float) g.pairs[i].scale(), accumulate, residual, bias, null, 0));
    }

    /**
     * See {@code LoraKernels.backward}.
     *
     * @param xd x after dropout, or x
     * @param dropped scratch like x where there was dropout, else null
     */
    void backward(CudaStream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor xd, Tensor[] u, boolean accumulate,
            Tensor dx, Tensor[] du, Tensor dropped) {
        for (int i = 0; i < calls.length; i++) {
            if (calls[i].dWeight() != null) {
                Matmul.tn(s, dy[i], x, 1, calls[i].dWeight(), true);
            }
            if (calls[i].dBias() != null) {
                lora.sumRows(s, dy[i], calls[i].dBias());
            }
        }
        Group g = rounded(s, calls, x, u);
        Matrix inner = g.all(u);
        Matrix dInner = g.all(du);
        for (int i = 0; i < calls.length; i++) {
            if (g.pairs[i] != null) {
                products.multiply(s, Layout.NN, Matrix.of(dy[i]), g.b[i], g.part(dInner, i),
                        Epilogue.plain((float) g.pairs[i].scale(), false));
            }
        }
        if (g.trained()) {
            gradients(s, g, dy, xd, inner, dInner);
        }
        if (dx == null) {
            return;
        }
        boolean begun = accumulate;
        if (dropped == null) {
            products.multiply(s, Layout.NN, dInner, g.a, Matrix.of(dx), Epilogue.plain(1, accumulate));
            begun = true;
        }
        for (int i = 0; i < calls.length; i++) {
            calls[i].weight().productBackward(s, dy[i], begun, dx);
            begun = true;
        }
        if (dropped != null) {
            products.multiply(s, Layout.NN, dInner, g.a, Matrix.of(dropped), Epilogue.plain(1, false));
            lora.dropout(s, calls[0].adapters().dropout(), calls[0].module(), dropped, dx, true);
        }
    }

    /** {@code dB += scale·dyᵀ·u} of each, and {@code dA += duᵀ·xd} of all at once where there are several. */
    private void gradients(CudaStream s, Group g, Tensor[] dy, Tensor xd, Matrix inner, Matrix dInner) {
        Parts all = parts.get().clear();
        // Nothing is rounded here, so that the place of rounded operands is free.
        long sums = cuda.workspace(Products.SCRATCH_BYTES) + Products.OPERANDS;
        Matrix dA = new Matrix(sums, DType.F32, g.ranks, xd.cols(), xd.cols());
        for (int i = 0; i < g.pairs.length; i++) {
            LoraPair p = g.pairs[i];
            if (p != null) {
                products.multiply(s, Layout.TN, Matrix.of(dy[i]), g.part(inner, i), Matrix.of(p.dB()),
                        Epilogue.plain((float) p.scale(), true));
                all.add(sums + DType.F32.bytes((long) g.first[i] * xd.cols()), p.dA().data().address(), p.dA().size());
                if (p.rank() == g.ranks) {
                    products.multiply(s, Layout.TN, dInner, Matrix.of(xd), Matrix.of(p.dA()), Epilogue.plain(1, true));
                    return;
                }
            }
        }
        products.multiply(s, Layout.TN, dInner, Matrix.of(xd), dA, Epilogue.plain(1, false));
        all.launch(s, addParts, ADDED_PER_BLOCK);
    }
}
