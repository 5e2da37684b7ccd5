package qlora4j.lora;

import java.util.List;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The linear layer of QLoRA (Dettmers et al. 2023, equation 5), forward and backward in one operation each, called
 * through {@link Linear}, which checks. With {@code xd = dropout(x)} and the adapter of each row:
 *
 * <pre>
 * y  = residual + x·Wᵀ + bias + scale·xd·Aᵀ·Bᵀ          u = xd·Aᵀ
 * du = scale·dy·B                                       dB += scale·dyᵀ·u      dA += duᵀ·xd
 * dx = dy·W + dropout'(du·A)                            dW += dyᵀ·x            dbias += Σ dy
 * </pre>
 */
public interface LoraKernels {
    /**
     * @param x [N, in]
     * @param residual [N, out] or null
     * @param y [N, out], overwritten; null: only u is computed
     * @param u [N, r] F32 (F64 when x is), saved for the backward; null without adapters
     * @param dropped scratch [N, in] like x; null without dropout
     */
    void forward(Stream s, Linear.Call call, Tensor x, Tensor residual, Tensor y, Tensor u, Tensor dropped);

    /**
     * {@link #forward} of several layers that take the same x, without residual and dropout; where x has few rows, a
     * launch for all costs less than one for each.
     *
     * @param y of each layer, [N, out], overwritten
     * @param u of each layer, as above, one behind the other in memory; null without an adapter
     */
    default void forward(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u) {
        for (int i = 0; i < calls.length; i++) {
            forward(s, calls[i], x, null, y[i], u[i], null);
        }
    }

    /**
     * {@link #forward} of gate and up, and {@code out = silu(gate)·up}, without dropout.
     *
     * @param y gate and up, [N, F], overwritten; where not {@code kept}, scratch, of which nothing is said afterwards
     * @param out [N, F], overwritten
     * @param gating for kernels that have it as an operation of its own
     */
    default void forwardGated(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u, boolean kept, Tensor out,
            Gating gating) {
        forward(s, calls, x, y, u);
        gating.forward(s, y[0], y[1], out);
    }

    /**
     * The layer behind SwiGLU.
     *
     * @param x [N, F], scratch, or {@code silu(gate)·up} when {@code wanted}
     * @param residual [N, out] or null
     * @param y [N, out], overwritten
     * @param u as in {@link #forward}
     * @param announce to be run before the layer, see {@link #announce}
     */
    record Behind(Linear.Call call, Tensor x, boolean wanted, Tensor residual, Tensor y, Tensor u, Gating gating,
            Runnable announce) {
    }

    /** {@link #forwardGated} and the layer behind it, whose input a backend may make as it is read. */
    default void forwardGated(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u, boolean kept,
            Behind behind) {
        forwardGated(s, calls, x, y, u, kept, behind.x, behind.gating);
        behind.announce.run();
        forward(s, behind.call, behind.x, behind.residual, behind.y, behind.u, null);
    }

    /**
     * What stands around layers of one input at generation, for a kernel to do in passing: the RMSNorm that makes their
     * input, and SwiGLU, which takes the outputs of two. Whoever does it in passing leaves x and, with SwiGLU, y open.
     *
     * @param h [N, in], of which {@code norm} makes x
     * @param weight [in] of the norm
     * @param norm {@code x = rmsnorm(h)} as an operation of its own
     * @param gated [N, out], {@code silu(y0)·y1}; null: the outputs themselves are wanted
     * @param gating that as an operation of its own
     */
    record Around(Tensor h, Tensor weight, double eps, Runnable norm, Tensor gated, Gating gating) {
    }

    /** {@link #forward} of several layers with what stands around them. */
    default void forward(Stream s, Linear.Call[] calls, Around around, Tensor x, Tensor[] y, Tensor[] u) {
        around.norm.run();
        if (around.gated == null) {
            forward(s, calls, x, y, u);
        } else {
            forwardGated(s, calls, x, y, u, false, around.gated, around.gating);
        }
    }

    /**
     * Says which layers run right behind the next operation on layers: a backend may make their weights ready while that
     * one runs. It changes no number.
     *
     * @param next layers of one input, in their order, that run forward or backward; may be none
     * @param gated gate and up, which run behind those by {@link #forwardGated}; or none
     */
    default void announce(Stream s, List<Linear> next, List<Linear> gated) {
    }

    /**
     * @param dy [N, out]
     * @param x [N, in] as in the forward
     * @param u [N, r] as the forward left it
     * @param accumulate whether dx is added to
     * @param dx [N, in]; null when nobody needs it. It may be x itself: what reads x comes before
     * @param du scratch [N, r] like u; null without adapters
     * @param dropped scratch [N, in] like x; null without dropout
     */
    void backward(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, boolean accumulate, Tensor dx, Tensor du,
            Tensor dropped);

    /**
     * {@link #backward} of a layer that took {@code x = silu(gate)·up}, without dropout, and the gradient of that.
     *
     * @param x [N, F], overwritten
     * @param gate [N, F], overwritten by its gradient; up likewise
     * @param gating for kernels that have it as an operation of its own
     */
    default void backwardGated(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, Tensor gate, Tensor up,
            Tensor du, Gating gating) {
        backward(s, call, dy, x, u, false, x, du, null);
        gating.backward(s, x, gate, up);
    }

    /** The same where x is scratch and does not hold {@code silu(gate)·up}: a backend may make it beside the gradients. */
    default void backwardUngated(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, Tensor gate, Tensor up,
            Tensor du, Gating gating) {
        gating.forward(s, gate, up, x);
        backwardGated(s, call, dy, x, u, gate, up, du, gating);
    }

    /**
     * {@link #backward} of several layers that took the same x, without dropout; {@code dx} is overwritten with the sum
     * of what each gives. Layers that ran forward together go back together.
     *
     * @param dy of each layer, [N, out]
     * @param u of each layer, as the forward left it; null without an adapter
     * @param dx [N, in]
     * @param du of each layer, scratch that lies as u does
     */
    default void backward(Stream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor[] u, Tensor dx, Tensor[] du) {
        for (int i = 0; i < calls.length; i++) {
            backward(s, calls[i], dy[i], x, u[i], i > 0, dx, du[i], null);
        }
    }
}
