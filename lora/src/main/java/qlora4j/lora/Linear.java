package qlora4j.lora;

import java.util.Arrays;
import java.util.List;
import qlora4j.lora.LoraKernels.Around;
import qlora4j.tensor.Aliasing;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A linear layer with any number of adapters beside its weight. Adapters are slots: the same slot number is the same
 * adapter in all layers of a model, and a slot is null where the adapter does not target this layer.
 */
public final class Linear {
    private final String name;
    private final int module;
    private final LinearWeight weight;
    private final Tensor bias;
    private final Tensor dWeight;
    private final Tensor dBias;
    private LoraPair[] slots = new LoraPair[0];
    /** A slot's own bias and its gradient, where an adapter has trained it; null entries: the layer's. */
    private Tensor[] biases = new Tensor[0];
    private Tensor[] dBiases = new Tensor[0];

    /**
     * A frozen layer.
     *
     * @param name its module path, such as {@code model.layers.0.self_attn.q_proj}
     * @param module its number in the model, for dropout
     * @param bias [out] or null
     */
    public Linear(String name, int module, LinearWeight weight, Tensor bias) {
        this(name, module, weight, bias, null, null);
    }

    /** A dense layer that is trained itself: gradients are accumulated into dWeight and, with a bias, dBias. */
    public Linear(String name, int module, LinearWeight weight, Tensor bias, Tensor dWeight, Tensor dBias) {
        if (dWeight != null && !(weight instanceof LinearWeight.Dense)) {
            throw new IllegalArgumentException(name + ": a quantized weight is frozen and has no gradient");
        }
        if (module < 0 || module >= Dropout.MAX_MODULES || weight.inFeatures() > Dropout.MAX_FEATURES) {
            throw new IllegalArgumentException(name + ": module " + module + " of " + weight.inFeatures()
                    + " features is beyond what dropout can number");
        }
        this.name = name;
        this.module = module;
        this.weight = weight;
        this.bias = bias;
        this.dWeight = dWeight;
        this.dBias = dBias;
    }

    public String name() {
        return name;
    }

    public LinearWeight weight() {
        return weight;
    }

    public Tensor bias() {
        return bias;
    }

    public int outFeatures() {
        return weight.outFeatures();
    }

    public int inFeatures() {
        return weight.inFeatures();
    }

    /** Puts an adapter into a slot; null empties it. */
    public void set(int slot, LoraPair pair) {
        if (pair != null && (pair.a().cols() != inFeatures() || pair.b().rows() != outFeatures())) {
            throw new IllegalArgumentException(name + " is [" + outFeatures() + ", " + inFeatures() + "]; adapter A "
                    + pair.a() + ", B " + pair.b() + " does not fit: was it trained on another model?");
        }
        if (slot >= slots.length) {
            slots = Arrays.copyOf(slots, slot + 1);
        }
        slots[slot] = pair;
    }

    /**
     * Gives a slot a bias of its own in place of the layer's.
     *
     * @param own [out]; null takes it away
     * @param dOwn its gradient, accumulated; null where it is not trained
     */
    public void setBias(int slot, Tensor own, Tensor dOwn) {
        if (own != null && (bias == null || own.size() != outFeatures())) {
            throw new IllegalArgumentException(name + (bias == null ? " has no bias"
                    : " has a bias of "
                            + outFeatures())
                    + "; the adapter's is " + own + ": was it trained on another model?");
        }
        if (slot >= biases.length) {
            biases = Arrays.copyOf(biases, slot + 1);
            dBiases = Arrays.copyOf(dBiases, slot + 1);
        }
        biases[slot] = own;
        dBiases[slot] = dOwn;
    }

    /** The bias of each slot: its own, or the layer's. */
    interface BiasOf {
        Tensor slot(int slot);
    }

    private Tensor biasOf(int slot) {
        return slot >= 0 && slot < biases.length && biases[slot] != null ? biases[slot] : bias;
    }

    /** The adapter in a slot, or null. */
    public LoraPair get(int slot) {
        return slot < slots.length ? slots[slot] : null;
    }

    /** The largest rank among the slots that {@code adapters} may use; 0 when there is none. */
    public int rank(Adapters adapters) {
        int r = 0;
        for (int i = 0; i < slots.length; i++) {
            if (slots[i] != null && adapters.uses(i)) {
                r = Math.max(r, slots[i].rank());
            }
        }
        return r;
    }

    /**
     * Which adapter each row of a call uses.
     *
     * @param slot the slot of all rows; {@link #NO_SLOT} for none
     * @param ofRow I32 [N] a slot per row (-1: none), or null when all rows use {@code slot}
     * @param dropout on the adapters' inputs, or null
     */
    public record Adapters(int slot, Tensor ofRow, Dropout dropout) {
        public static final int NO_SLOT = -1;
        /** The base alone. */
        public static final Adapters NONE = new Adapters(NO_SLOT, null, null);

        /** All rows use one adapter, without dropout. */
        public static Adapters of(int slot) {
            return new Adapters(slot, null, null);
        }

        boolean uses(int candidate) {
            return ofRow != null || slot == candidate;
        }
    }

    /** Everything a kernel needs beside the activations. */
    public record Call(int module, LinearWeight weight, Tensor bias, Tensor dWeight, Tensor dBias, LoraPair[] slots,
            Adapters adapters) {
        /** The pair of all rows, or null. */
        public LoraPair single() {
            int i = adapters.slot();
            return adapters.ofRow() == null && i >= 0 && i < slots.length ? slots[i] : null;
        }

        /** The pair in a slot, or null. */
        public LoraPair pair(int slot) {
            return slot >= 0 && slot < slots.length ? slots[slot] : null;
        }

        /** The same without bias, dropout and gradients of weight and bias. */
        Call plain() {
            return new Call(module, weight, null, null, null, slots,
                    new Adapters(adapters.slot, adapters.ofRow, null));
        }
    }

    private Call call(Adapters adapters) {
        int slot = adapters.ofRow == null ? adapters.slot : Adapters.NO_SLOT;
        boolean own = biasOf(slot) != bias;
        return new Call(module, weight, biasOf(slot), dWeight, own ? dBiases[slot] : dBias, slots, adapters);
    }

    /** Whether rows of one call may differ in more than the pair: in magnitudes or in biases. */
    private boolean differ(Adapters adapters) {
        return adapters.ofRow != null && (Arrays.stream(slots).anyMatch(p -> p != null && p.dora() != null)
                || Arrays.stream(biases).anyMatch(b -> b != null));
    }

    /** Whether a call reads on the host which adapter each row has: where rows differ in magnitudes or in biases. */
    public boolean hostReadsRows(Adapters adapters) {
        return differ(adapters);
    }

    /** The type of u for activations of type {@code x}: sums through an adapter are kept in float32 at least. */
    public static DType wide(DType x) {
        return x == DType.F64 ? DType.F64 : DType.F32;
    }

    /**
     * {@code y = residual + x·Wᵀ + bias + scale·dropout(x)·Aᵀ·Bᵀ}.
     *
     * @param x [N, in]
     * @param residual [N, out] or null
     * @param y [N, out], overwritten; null when only u is wanted (recomputation of a layer whose output nobody needs),
     *         which saves the product with W
     * @return u [N, r], taken from the stream, for {@link #backward} to use and the caller to release; null when no
     *         adapter takes part
     */
    public Tensor forward(Stream s, Adapters adapters, Tensor x, Tensor residual, Tensor y) {
        int r = rank(adapters);
        Tensor u = r == 0 ? null : s.take(wide(x.dtype()), x.rows(), r);
        forward(s, adapters, x, residual, y, u);
        return u;
    }

    private void forward(Stream s, Adapters adapters, Tensor x, Tensor residual, Tensor y, Tensor u) {
        if (y != null) {
            check(x, y, residual);
            Aliasing.checkDisjoint(name, y, x);
        }
        Tensor dropped = u == null || adapters.dropout() == null ? null : s.take(x.dtype(), x.rows(), inFeatures());
        Call call = call(adapters);
        if (differ(adapters)) {
            refuseTraining(dropped != null);
            if (y != null) {
                DoraLinear.mixed(s, call, this::biasOf, x, residual, y, u);
            }
        } else if (call.single() != null && call.single().dora() != null) {
            DoraLinear.forward(s, call, call.single(), x, residual, y, u, dropped);
        } else {
            s.kernels(LoraKernels.class).forward(s, call, x, residual, y, u, dropped);
        }
        s.release(dropped);
    }

    /**
     * What {@link #forward(Stream, Adapters, List, Tensor, Tensor...)} leaves of layers that take the same x.
     *
     * @param memory what is released when it is no longer needed; null where no layer has an adapter
     * @param of u of each layer, one behind the other in that memory; null where a layer has no adapter
     */
    public record Inner(Tensor memory, Tensor[] of) {
    }

    /** Memory for u of all layers, or for its gradient. */
    static Inner inner(Stream s, Adapters adapters, List<Linear> layers, Tensor x) {
        long n = x.rows();
        Tensor[] of = new Tensor[layers.size()];
        int[] ranks = new int[of.length];
        int all = 0;
        for (int i = 0; i < of.length; i++) {
            ranks[i] = layers.get(i).rank(adapters);
            all += ranks[i];
        }
        Tensor memory = all == 0 ? null : s.take(wide(x.dtype()), n, all);
        long from = 0;
        for (int i = 0; i < of.length; i++) {
            of[i] = ranks[i] == 0 ? null : memory.slice(from, n, ranks[i]);
            from += n * ranks[i];
        }
        return new Inner(memory, of);
    }

    /** Whether something keeps the layers apart, so that they do not go in one operation. */
    static boolean apart(Adapters adapters, List<Linear> layers) {
        boolean apart = adapters.dropout() != null;
        for (int i = 0; i < layers.size(); i++) {
            apart |= layers.get(i).isAlone(adapters);
        }
        return apart;
    }

    /** Says which layers run right behind the next operation on layers, see {@link LoraKernels#announce}. */
    public static void announce(Stream s, List<Linear> next) {
        s.kernels(LoraKernels.class).announce(s, next, List.of());
    }

    /**
     * {@link #forward} of layers that take the same x, such as q, k and v: one operation where nothing keeps them apart.
     *
     * @param y of each layer, [N, out], overwritten
     */
    public static Inner forward(Stream s, Adapters adapters, List<Linear> layers, Tensor x, Tensor... y) {
        return forward(s, adapters, layers, null, x, y);
    }

    /**
     * The same with what stands around the layers; null: nothing.
     *
     * @param around what a backend may do in passing, where it leaves x and, with SwiGLU, y open: for generation only
     */
    public static Inner forward(Stream s, Adapters adapters, List<Linear> layers, Around around, Tensor x,
            Tensor... y) {
        Inner u = inner(s, adapters, layers, x);
        if (apart(adapters, layers)) {
            if (around != null) {
                around.norm().run();
            }
            for (int i = 0; i < y.length; i++) {
                layers.get(i).forward(s, adapters, x, null, y[i], u.of[i]);
            }
            if (around != null && around.gated() != null) {
                around.gating().forward(s, y[0], y[1], around.gated());
            }
            return u;
        }
        Call[] calls = calls(adapters, layers, x, y);
        if (around == null) {
            s.kernels(LoraKernels.class).forward(s, calls, x, y, u.of);
        } else {
            s.kernels(LoraKernels.class).forward(s, calls, around, x, y, u.of);
        }
        return u;
    }

    /** The layers' calls, after a look at x and what they make of it, or its gradient. */
    static Call[] calls(Adapters adapters, List<Linear> layers, Tensor x, Tensor... y) {
        Call[] calls = new Call[y.length];
        for (int i = 0; i < y.length; i++) {
            Linear l = layers.get(i);
            l.check(x, y[i], null);
            Aliasing.checkDisjoint(l.name, y[i], x);
            calls[i] = l.call(adapters);
        }
        return calls;
    }

    /** Whether the layer is more than weight, bias and plain pairs. */
    private boolean isAlone(Adapters adapters) {
        LoraPair single = call(adapters).single();
        return differ(adapters) || single != null && single.dora() != null;
    }

    /**
     * The gradient: dx is overwritten or added to, gradients of trained adapters, weight and bias are accumulated.
     *
     * @param u what {@link #forward} returned
     * @param dx [N, in] or null when nobody needs it
     */
    public void backward(Stream s, Adapters adapters, Tensor dy, Tensor x, Tensor u, boolean accumulate, Tensor dx) {
        check(x, dy, null);
        if (dx != null) {
            Aliasing.checkDisjoint(name, dx, dy, x);
        }
        boolean adapted = u != null;
        Tensor du = adapted ? s.take(u.dtype(), u.shape()) : null;
        Tensor dropped = adapted && adapters.dropout() != null ? s.take(x.dtype(), x.shape()) : null;
        Call call = call(adapters);
        refuseTraining(differ(adapters));
        if (call.single() != null && call.single().dora() != null) {
            refuseDenseTraining();
            DoraLinear.backward(s, call, call.single(), dy, x, u, accumulate, dx, du, dropped);
        } else {
            s.kernels(LoraKernels.class).backward(s, call, dy, x, u, accumulate, dx, du, dropped);
        }
        s.release(du);
        s.release(dropped);
    }

    /**
     * {@link #backward} for a caller that no longer needs x: dx takes its place where that is possible.
     *
     * @param x [N, in], overwritten
     * @return dx: x itself, or a tensor of the stream, which the caller releases, where magnitudes need x to the end
     */
    public Tensor backwardInPlace(Stream s, Adapters adapters, Tensor dy, Tensor x, Tensor u) {
        if (isAlone(adapters)) {
            Tensor dx = s.take(x.dtype(), x.shape());
            backward(s, adapters, dy, x, u, false, dx);
            return dx;
        }
        check(x, dy, null);
        Aliasing.checkDisjoint(name, x, dy);
        Tensor du = u == null ? null : s.take(u.dtype(), u.shape());
        Tensor dropped = u == null || adapters.dropout() == null ? null : s.take(x.dtype(), x.shape());
        s.kernels(LoraKernels.class).backward(s, call(adapters), dy, x, u, false, x, du, dropped);
        s.release(du, dropped);
        return x;
    }

    /**
     * {@link #backward} of layers that took the same x: dx is overwritten with the sum of what each gives.
     *
     * @param dy of each layer
     * @param u of the layers, as {@link #forward} returned it
     * @param dx [N, in]
     */
    public static void backward(Stream s, Adapters adapters, List<Linear> layers, Tensor[] dy, Tensor x, Inner u,
            Tensor dx) {
        if (apart(adapters, layers)) {
            for (int i = 0; i < dy.length; i++) {
                layers.get(i).backward(s, adapters, dy[i], x, u.of[i], i > 0, dx);
            }
            return;
        }
        Call[] calls = new Call[dy.length];
        for (int i = 0; i < dy.length; i++) {
            Linear l = layers.get(i);
            l.check(x, dy[i], null);
            Aliasing.checkDisjoint(l.name, dx, dy[i], x);
            calls[i] = l.call(adapters);
        }
        Inner du = inner(s, adapters, layers, x);
        s.kernels(LoraKernels.class).backward(s, calls, dy, x, u.of, dx, du.of);
        s.release(du.memory);
    }

    private void refuseTraining(boolean wanted) {
        if (wanted) {
            throw new IllegalArgumentException(name + ": rows of several adapters, of which some have magnitudes (DoRA)"
                    + " or biases of their own, can be run but not trained; train one adapter at a time");
        }
    }

    private void refuseDenseTraining() {
        if (dWeight != null) {
            throw new IllegalArgumentException(name + ": DoRA beside a weight that is trained itself is not supported");
        }
    }

    private void check(Tensor x, Tensor y, Tensor residual) {
        if (x.cols() != inFeatures() || y.cols() != outFeatures() || x.rows() != y.rows() || x.dtype() != y.dtype()) {
            throw new IllegalArgumentException(name + " [" + outFeatures() + ", " + inFeatures() + "]: x " + x
                    + " and y " + y + " do not fit");
        }
        if (residual != null && !residual.hasShapeOf(y)) {
            throw new IllegalArgumentException(name + ": residual " + residual + " does not fit " + y);
        }
    }
}
