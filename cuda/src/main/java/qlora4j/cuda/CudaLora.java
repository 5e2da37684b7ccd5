package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.lora.Dropout;
import qlora4j.lora.Gating;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraKernels;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The linear layer with adapters. With many rows, y is first made of residual, bias and the adapters' part in one pass,
 * and the product with W is added to it; dx likewise. Where rows have adapters of their own, each adapter's product runs
 * over all rows and leaves the others alone: which row has which is read by the kernels, never by the host.
 */
final class CudaLora implements LoraKernels {
    private static final int THREADS = 256;
    private static final int PIECE = 8;
    private static final int SUM_COLUMNS = 32;
    /** Threads that share a row of A, at most 1024. */
    private static final int DOWN_THREADS = 1024;
    /** Threads of lora_up that share an output. */
    private static final int SHARE = 8;
    /** Dropout looks at the upper 24 bits of a word. */
    private static final double UNIT = 0x1p24;

    /** {@code struct Down} of lora.cu. */
    private static final int DOWN_BYTES = 2 * 8 + 2 * 4;

    private final ThreadLocal<MemorySegment> downs = ThreadLocal
            .withInitial(() -> Arena.ofAuto().allocate((long) DOWN_BYTES * CudaMatvec.MOST, 8));
    private final CudaBlockwise blockwise;
    private final Products products;
    private final NarrowLora narrow;
    private final GatedLora gated;
    private final Variants dropout;
    private final Variants addRows;
    private final Variants sumRows;
    private final Variants down;
    private final Variants up;

    CudaLora(CudaBackend cuda, CudaBlockwise blockwise, Products products) {
        this.blockwise = blockwise;
        this.products = products;
        narrow = new NarrowLora(cuda, blockwise, products, this);
        gated = new GatedLora(products, narrow);
        CudaModules m = cuda.modules();
        dropout = Variants.of(m, "lora", "dropout", DType.F32, DType.BF16);
        addRows = Variants.of(m, "lora", "add_rows", DType.F32, DType.BF16);
        sumRows = Variants.of(m, "lora", "sum_rows", DType.F32, DType.BF16);
        down = Variants.of(m, "lora", "lora_down", DType.F32, DType.BF16);
        up = Variants.of(m, "lora", "lora_up", DType.F32, DType.BF16);
    }

    /** What is done with one adapter over its rows. */
    private interface Use {
        void of(LoraPair pair, Tensor slots, int slot);
    }

    private static void eachPair(Linear.Call call, Use use) {
        Tensor ofRow = call.adapters().ofRow();
        if (ofRow == null) {
            LoraPair pair = call.single();
            if (pair != null) {
                use.of(pair, null, 0);
            }
            return;
        }
        for (int slot = 0; slot < call.slots().length; slot++) {
            if (call.slots()[slot] != null) {
                use.of(call.slots()[slot], ofRow, slot);
            }
        }
    }

    /** The columns of u that an adapter of lower rank uses; rows stay where they are. */
    private static Matrix part(Tensor u, LoraPair pair) {
        return Matrix.of(u).columns(pair.rank());
    }

    @Override
    public void forward(Stream stream, Linear.Call call, Tensor x, Tensor residual, Tensor y, Tensor u,
            Tensor dropped) {
        CudaStream s = (CudaStream) stream;
        if (x.rows() == 0) {
            return;
        }
        boolean few = x.rows() <= CudaMatmul.FEW_ROWS;
        if (few && dropped == null && together(s, new Linear.Call[]{call}, null, x, new Tensor[]{residual},
                new Tensor[]{y}, new Tensor[]{u})) {
            return;
        }
        if (NarrowLora.takes(new Linear.Call[]{call}, x, new Tensor[]{u})) {
            narrow.forward(s, new Linear.Call[]{call}, x, droppedInput(s, call, x, dropped), new Tensor[]{residual},
                    new Tensor[]{y}, new Tensor[]{u});
            return;
        }
        if (u != null) {
            Tensor xd = droppedInput(s, call, x, dropped);
            eachPair(call, (pair, slots, slot) -> {
                if (few) {
                    fewDown(s, xd, pair, slots, slot, u);
                } else {
                    products.multiply(s, Layout.NT, Matrix.of(xd), Matrix.of(pair.a()), part(u, pair),
                            new Epilogue(1, false, null, null, slots, slot));
                }
            });
        }
        if (y == null) {
            return;
        }
        Variants.same("residual", y, residual);
        Variants.same("bias", y, call.bias());
        boolean single = u != null && call.adapters().ofRow() == null;
        if (call.weight() instanceof LinearWeight.Quantized q && blockwise.fuses(x, q.w())) {
            blockwise.multiply(s, x, q.w(), y, false, residual, call.bias());
        } else if (single && !few) {
            addAdapters(s, call, u, y, residual, call.bias(), false);
            product(s, call.weight(), x, y, true);
            return;
        } else {
            boolean begun = residual != null || call.bias() != null;
            if (begun) {
                addRows(s, residual, call.bias(), y);
            }
            product(s, call.weight(), x, y, begun);
        }
        if (u != null) {
            addAdapters(s, call, u, y, null, null, true);
        }
    }

    /** {@code y = scale·u·Bᵀ + residual + bias}, or added to y; in few rows always added. */
    private void addAdapters(CudaStream s, Linear.Call call, Tensor u, Tensor y, Tensor residual, Tensor bias,
            boolean accumulate) {
        boolean few = y.rows() <= CudaMatmul.FEW_ROWS;
        eachPair(call, (pair, slots, slot) -> {
            if (few) {
                fewUp(s, u, pair, slots, slot, y);
            } else {
                products.multiply(s, Layout.NT, part(u, pair), Matrix.of(pair.b()), Matrix.of(y),
                        new Epilogue((float) pair.scale(), accumulate, residual, bias, slots, slot));
            }
        });
    }

    /** {@code u = x·Aᵀ} of up to eight rows. */
    private void fewDown(CudaStream s, Tensor x, LoraPair pair, Tensor slots, int slot, Tensor u) {
        fewDown(s, x, slots, slot, new LoraPair[]{pair}, new Tensor[]{u});
    }

    /** The same of layers that take the same x; null where one has no adapter. */
    private void fewDown(CudaStream s, Tensor x, Tensor slots, int slot, LoraPair[] pairs, Tensor[] u) {
        MemorySegment all = downs.get();
        int n = 0;
        int rank = 0;
        for (int i = 0; i < pairs.length; i++) {
            if (pairs[i] != null) {
                long at = (long) DOWN_BYTES * n++;
                all.set(ValueLayout.JAVA_LONG, at,
                        Variants.require(DType.F32, "lora_A", pairs[i].a()).data().address());
                all.set(ValueLayout.JAVA_LONG, at + 8, u[i].data().address());
                all.set(ValueLayout.JAVA_INT, at + 16, pairs[i].rank());
                all.set(ValueLayout.JAVA_INT, at + 20, u[i].cols());
                rank = Math.max(rank, pairs[i].rank());
            }
        }
        down.get(x).launch(s, rank, n, 1, DOWN_THREADS, 0,
                Kernel.args().ptr(x).i32(x.rows()).ptr(slots).i32(slot).i32(x.cols()).bytes(all, 8));
    }

    /**
     * Few rows, one adapter or none, and weights in 4 bits: one launch for all of y, and one for all of u where the other
     * cannot do that, too.
     *
     * @param around what is to be done with them, or null
     * @return false where something of it is otherwise; nothing was enqueued then
     */
    private boolean together(CudaStream s, Linear.Call[] calls, Around around, Tensor x, Tensor[] residual, Tensor[] y,
            Tensor[] u) {
        CudaMatvec.Product[] all = new CudaMatvec.Product[calls.length];
        LoraPair[] pairs = new LoraPair[calls.length];
        for (int i = 0; i < calls.length; i++) {
            Linear.Call c = calls[i];
            if (y[i] == null || c.adapters().ofRow() != null || calls.length > CudaMatvec.MOST
                    || !(c.weight() instanceof LinearWeight.Quantized q) || !blockwise.takesFew(x, q.w())
                    || i > 0 && !CudaMatvec.together(all[0].w(), q.w())) {
                return false;
            }
            Variants.same("residual", y[i], residual[i]);
            Variants.same("bias", y[i], c.bias());
            pairs[i] = u[i] == null ? null : c.single();
            if (pairs[i] != null) {
                Variants.require(DType.F32, "lora_B", pairs[i].b());
            }
            all[i] = new CudaMatvec.Product(q.w(), y[i], residual[i], c.bias(), pairs[i], u[i]);
        }
        boolean adapted = Arrays.stream(pairs).anyMatch(Objects::nonNull);
        if (around != null) {
            // The norm makes what A is multiplied with: both are done here, or neither.
            CudaMatvec.Beside both = new CudaMatvec.Beside(around.weight(), around.eps(), around.gated(), adapted);
            if (around.weight().dtype() != DType.BF16 || !CudaMatmul.aligned(around.weight())
                    || !CudaMatmul.aligned(around.h()) || !blockwise.takesBeside(x.rows(), both, all)) {
                return false;
            }
            blockwise.multiplyFew(s, around.h(), both, all);
            return true;
        }
        CudaMatvec.Beside inner = new CudaMatvec.Beside(null, 0, null, true);
        if (adapted && blockwise.takesBeside(x.rows(), inner, all)) {
            blockwise.multiplyFew(s, x, inner, all);
            return true;
        }
        if (adapted) {
            fewDown(s, x, null, 0, pairs, u);
        }
        blockwise.multiplyFew(s, x, CudaMatvec.Beside.NOTHING, all);
        return true;
    }

    @Override
    public void forward(Stream stream, Linear.Call[] calls, Around around, Tensor x, Tensor[] y, Tensor[] u) {
        if (x.rows() == 0
                || !together((CudaStream) stream, calls, around, x, new Tensor[calls.length], y, u)) {
            LoraKernels.super.forward(stream, calls, around, x, y, u);
        }
    }

    @Override
    public void forward(Stream stream, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u) {
        CudaStream s = (CudaStream) stream;
        if (NarrowLora.takes(calls, x, u)) {
            narrow.forward(s, calls, x, x, new Tensor[calls.length], y, u);
        } else if (!together(s, calls, null, x, new Tensor[calls.length], y, u)) {
            LoraKernels.super.forward(stream, calls, x, y, u);
        }
    }

    WeightsAhead ahead() {
        return narrow.ahead;
    }

    @Override
    public void announce(Stream stream, List<Linear> next, List<Linear> gatedNext) {
        narrow.ahead.announce(next, gatedNext);
    }

    @Override
    public void forwardGated(Stream stream, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u, boolean kept,
            Tensor out, Gating gating) {
        if (!gated.forward((CudaStream) stream, calls, x, y, u, kept, out)) {
            LoraKernels.super.forwardGated(stream, calls, x, y, u, kept, out, gating);
        }
    }

    @Override
    public void backwardGated(Stream stream, Linear.Call call, Tensor dy, Tensor x, Tensor u, Tensor gate, Tensor up,
            Tensor du, Gating gating) {
        if (!gated.backward((CudaStream) stream, call, dy, x, u, gate, up, du)) {
            LoraKernels.super.backwardGated(stream, call, dy, x, u, gate, up, du, gating);
        }
    }

    /** {@code y += scale·u·Bᵀ} of up to eight rows. */
    private void fewUp(CudaStream s, Tensor u, LoraPair pair, Tensor slots, int slot, Tensor y) {
        Tensor b = Variants.require(DType.F32, "lora_B", pair.b());
        up.get(y).launch(s, Math.ceilDiv(y.cols() * SHARE, THREADS), THREADS,
                Kernel.args().ptr(u).i32(u.cols()).i32(y.rows()).ptr(slots).i32(slot).ptr(b).i32(y.cols())
                        .i32(pair.rank()).f32((float) pair.scale()).ptr(y));
    }

    /** {@code y = x·Wᵀ}, or added to y. */
    void product(CudaStream s, LinearWeight weight, Tensor x, Tensor y, boolean accumulate) {
        switch (weight) {
            case LinearWeight.Quantized q -> blockwise.multiply(s, x, q.w(), y, accumulate, null, null);
            case LinearWeight.Dense d -> Matmul.nt(s, x, d.w(), 1, y, accumulate);
        }
    }

    @Override
    public void backward(Stream stream, Linear.Call call, Tensor dy, Tensor x, Tensor u, boolean accumulate, Tensor dx,
            Tensor du, Tensor dropped) {
        CudaStream s = (CudaStream) stream;
        if (dy.rows() == 0) {
            return;
        }
        if (NarrowLora.takes(new Linear.Call[]{call}, x, new Tensor[]{u})) {
            narrow.backward(s, new Linear.Call[]{call}, new Tensor[]{dy}, x, droppedInput(s, call, x, dropped),
                    new Tensor[]{u}, accumulate, dx, new Tensor[]{du}, dropped);
            return;
        }
        if (call.dWeight() != null) {
            Matmul.tn(s, dy, x, 1, call.dWeight(), true);
        }
        if (call.dBias() != null) {
            sumRows(s, dy, call.dBias());
        }
        boolean begun = accumulate;
        if (u != null) {
            Tensor xd = droppedInput(s, call, x, dropped);
            eachPair(call, (pair, slots, slot) -> {
                float scale = (float) pair.scale();
                products.multiply(s, Layout.NN, Matrix.of(dy), Matrix.of(pair.b()), part(du, pair),
                        new Epilogue(scale, false, null, null, slots, slot));
                if (pair.trained()) {
                    products.multiply(s, Layout.TN, Matrix.of(dy), part(u, pair), Matrix.of(pair.dB()),
                            new Epilogue(scale, true, null, null, slots, slot));
                    products.multiply(s, Layout.TN, part(du, pair), Matrix.of(xd), Matrix.of(pair.dA()),
                            new Epilogue(1, true, null, null, slots, slot));
                }
            });
            begun |= dx != null && backThroughAdapters(s, call, du, dropped, accumulate, dx);
        }
        if (dx != null) {
            LinearWeight weight = call.weight();
            weight.productBackward(s, dy, begun, dx);
            if (u != null && (dropped != null || call.adapters().ofRow() != null)) {
                addBack(s, call, du, dropped, dx);
            }
        }
    }

    @Override
    public void backward(Stream stream, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor[] u, Tensor dx,
            Tensor[] du) {
        if (NarrowLora.takes(calls, x, u)) {
            narrow.backward((CudaStream) stream, calls, dy, x, x, u, false, dx, du, null);
        } else {
            LoraKernels.super.backward(stream, calls, dy, x, u, dx, du);
        }
    }

    /** Begins dx with {@code du·A} where all rows have one adapter and no dropout; whether it did. */
    private boolean backThroughAdapters(CudaStream s, Linear.Call call, Tensor du, Tensor dropped, boolean accumulate,
            Tensor dx) {
        LoraPair pair = call.single();
        if (pair == null || dropped != null || call.adapters().ofRow() != null) {
            return false;
        }
        products.multiply(s, Layout.NN, part(du, pair), Matrix.of(pair.a()), Matrix.of(dx),
                Epilogue.plain(1, accumulate));
        return true;
    }

    /** {@code dx += dropout'(du·A)}. */
    private void addBack(CudaStream s, Linear.Call call, Tensor du, Tensor dropped, Tensor dx) {
        boolean byRow = call.adapters().ofRow() != null;
        if (dropped != null && byRow) {
            s.zero(dropped);
        }
        eachPair(call, (pair, slots, slot) -> products.multiply(s, Layout.NN, part(du, pair), Matrix.of(pair.a()),
                Matrix.of(dropped == null ? dx : dropped),
                new Epilogue(1, dropped == null, null, null, slots, slot)));
        if (dropped != null) {
            dropout(s, call.adapters().dropout(), call.module(), dropped, dx, true);
        }
    }

    private Tensor droppedInput(CudaStream s, Linear.Call call, Tensor x, Tensor dropped) {
        if (dropped == null) {
            return x;
        }
        dropout(s, call.adapters().dropout(), call.module(), x, dropped, false);
        return dropped;
    }

    /** {@code out = dropout(x)}, or added. */
    void dropout(CudaStream s, Dropout d, int module, Tensor x, Tensor out, boolean add) {
        Variants.same("dropout", x, out);
        dropout.get(x).launch(s, pieces(x), THREADS, Kernel.args().ptr(x).i64(x.rows()).i32(x.cols()).i64(d.seed())
                .ptr(d.step()).ptr(d.sample()).ptr(d.position()).i32(module).i32((int) Math.ceil(d.p() * UNIT))
                .f32(d.scale()).flag(add).ptr(out));
    }

    /** {@code y = residual + bias}; either may be null. */
    void addRows(CudaStream s, Tensor residual, Tensor bias, Tensor y) {
        addRows.get(y).launch(s, pieces(y), THREADS,
                Kernel.args().ptr(residual).ptr(bias).i64(y.rows()).i32(y.cols()).flag(false).ptr(y));
    }

    /** {@code dBias += Σ dy} over the rows. */
    void sumRows(CudaStream s, Tensor dy, Tensor dBias) {
        sumRows.get(dy).launch(s, Math.ceilDiv(dy.cols(), SUM_COLUMNS), THREADS,
                Kernel.args().ptr(dy).i64(dy.rows()).i32(dy.cols()).flag(dBias.dtype() == DType.F32).ptr(dBias));
    }

    /** Blocks of a kernel whose threads have eight elements of a row each. */
    private static long pieces(Tensor t) {
        return Math.ceilDiv((long) t.rows() * Math.ceilDiv(t.cols(), PIECE), THREADS);
    }
}
