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
     * The gradient of the layer behind SwiGLU and of SwiGLU: gradients of trained parameters are accumulated.
     *
     * @param layer the one behind, down
     * @param dy [N, out]
     * @param x [N, F] {@code silu(gate)·up}, overwritten
     * @param u what the layer's forward returned
     * @param gate [N, F], overwritten by its gradient
     * @param up [N, F], likewise
     */
    public static void backward(Stream s, Adapters adapters, Linear layer, Tensor dy, Tensor x, Tensor u, Tensor gate,
            Tensor up, Gating gating) {
        if (Linear.apart(adapters, List.of(layer))) {
            Tensor dx = layer.backwardInPlace(s, adapters, dy, x, u);
            gating.backward(s, dx, gate, up);
            s.release(dx == x ? null : dx);
            return;
        }
        Call[] calls = Linear.calls(adapters, List.of(layer), x, dy);
        Aliasing.checkDisjoint(layer.name(), x, dy, gate, up);
        Tensor du = u == null ? null : s.take(u.dtype(), u.shape());
        s.kernels(LoraKernels.class).backwardGated(s, calls[0], dy, x, u, gate, up, du, gating);
        s.release(du);
    }
}
