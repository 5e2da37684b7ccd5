package qlora4j.lora;

import java.util.List;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.Linear.Call;
import qlora4j.lora.Linear.Inner;
import qlora4j.tensor.Aliasing;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The linear layers around SwiGLU, together with it: one operation where a backend has one and nothing keeps them apart. */
public final class GatedLinear {
    private GatedLinear() {
    }

    /**
     * Says that gate and up run forward behind the next operation on layers, and behind {@code next} where that is not
     * empty: see {@link LoraKernels#announce}.
     */
    public static void announce(Stream s, Adapters adapters, List<Linear> next, List<Linear> layers) {
        s.kernels(LoraKernels.class).announce(s, next, Linear.apart(adapters, layers) ? List.of() : layers);
    }

    /**
     * Runs gate and up, and SwiGLU of what they give.
     *
     * @param layers gate and up
     * @param x [N, in]
     * @param gate [N, F], overwritten
     * @param up [N, F], overwritten
     * @param kept whether gate and up are wanted; otherwise they are scratch, of which nothing is said afterwards
     * @param out [N, F], overwritten by {@code silu(gate)·up}
     * @return as {@link Linear#forward(Stream, Adapters, List, Tensor, Tensor...)}
     */
    public static Inner forward(Stream s, Adapters adapters, List<Linear> layers, Tensor x, Tensor gate, Tensor up,
            boolean kept, Tensor out, Gating gating) {
        if (Linear.apart(adapters, layers)) {
            Inner u = Linear.forward(s, adapters, layers, x, gate, up);
            gating.forward(s, gate, up, out);
            return u;
        }
        Inner u = Linear.inner(s, adapters, layers, x);
        Tensor[] y = {gate, up};
        Aliasing.checkDisjoint("gated layers", out, x, gate, up);
        s.kernels(LoraKernels.class).forwardGated(s, Linear.calls(adapters, layers, x, y), x, y, u.of(), kept, out,
                gating);
        return u;
    }

    /**
     * What the forward of all three layers leaves.
     *
     * @param of of gate and up
     * @param behind u of the layer behind
     */
    public record Inners(Inner of, Tensor behind) {
    }

    /**
     * {@link #forward} and the layer behind SwiGLU.
     *
     * @param down the layer behind
     * @param middle [N, F], overwritten by {@code silu(gate)·up} when {@code wanted}, else scratch
     * @param residual [N, out] or null
     * @param out [N, out], overwritten; null: only u is wanted, as in {@link Linear#forward}, and so is middle
     * @param next announced before the layer behind runs
     */
    public static Inners forward(Stream s, Adapters adapters, List<Linear> layers, Tensor x, Tensor gate, Tensor up,
            boolean kept, Linear down, Tensor middle, boolean wanted, Tensor residual, Tensor out, List<Linear> next,
            Gating gating) {
        List<Linear> behind = List.of(down);
        if (out == null || Linear.apart(adapters, layers) || Linear.apart(adapters, behind)) {
            Inner u = forward(s, adapters, layers, x, gate, up, kept, middle, gating);
            Linear.announce(s, next);
            return new Inners(u, down.forward(s, adapters, middle, residual, out));
        }
        Tensor[] y = {gate, up};
        Aliasing.checkDisjoint("gated layers", middle, x, gate, up);
        Aliasing.checkDisjoint(down.name(), out, x, gate, up, middle);
        Call[] calls = Linear.calls(adapters, layers, x, y);
        Call last = Linear.calls(adapters, behind, middle, out)[0];
        Inner u = Linear.inner(s, adapters, layers, x);
        Tensor ud = Linear.inner(s, adapters, behind, middle).memory();
        s.kernels(LoraKernels.class).forwardGated(s, calls, x, y, u.of(), kept, new LoraKernels.Behind(last, middle,
                wanted, residual, out, ud, gating, () -> Linear.announce(s, next)));
        return new Inners(u, ud);
    }

    /**
     * The gradient of the layer behind SwiGLU and of SwiGLU: gradients of trained parameters are accumulated.
     *
     * @param layer the one behind, down
     * @param dy [N, out]
     * @param x [N, F] {@code silu(gate)·up}, or scratch when not {@code made}; overwritten
     * @param u what the layer's forward returned
     * @param gate [N, F], overwritten by its gradient
     * @param up [N, F], likewise
     */
    public static void backward(Stream s, Adapters adapters, Linear layer, Tensor dy, Tensor x, boolean made, Tensor u,
            Tensor gate, Tensor up, Gating gating) {
        if (Linear.apart(adapters, List.of(layer))) {
            if (!made) {
                gating.forward(s, gate, up, x);
            }
            Tensor dx = layer.backwardInPlace(s, adapters, dy, x, u);
            gating.backward(s, dx, gate, up);
            s.release(dx == x ? null : dx);
            return;
        }
        Call[] calls = Linear.calls(adapters, List.of(layer), x, dy);
        Aliasing.checkDisjoint(layer.name(), x, dy, gate, up);
        Tensor du = u == null ? null : s.take(u.dtype(), u.shape());
        LoraKernels kernels = s.kernels(LoraKernels.class);
        if (made) {
            kernels.backwardGated(s, calls[0], dy, x, u, gate, up, du, gating);
        } else {
            kernels.backwardUngated(s, calls[0], dy, x, u, gate, up, du, gating);
        }
        s.release(du);
    }
}
