package qlora4j.model;

import java.util.List;
import qlora4j.lora.GatedLinear;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraKernels;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * One decoder layer (Touvron et al. 2023), forward and backward beside each other:
 *
 * <pre>
 * n1 = rmsnorm(h)    q, k, v = n1·Wq, n1·Wk, n1·Wv    rope(q, k)    a = attention(q, k, v)    h2 = h + a·Wo
 * n2 = rmsnorm(h2)   gate, up = n2·Wg, n2·Wu          m = silu(gate)·up                       out = h2 + m·Wd
 * </pre>
 *
 * <p>Where the configuration has q/k norms (Qwen3; Henry et al. 2020), each head of q and k is normed before it is
 * rotated: RMSNorm over rows of head_dim features, so of {@code [N·heads, D]} views.
 */
final class DecoderLayer {
    final int index;
    final SlottedWeight inputNorm;
    final SlottedWeight postNorm;
    /** The norms of the heads of q and k; null where there are none. */
    private final SlottedWeight qNorm;
    private final SlottedWeight kNorm;
    final Linear q;
    final Linear k;
    final Linear v;
    final Linear o;
    final Linear gate;
    final Linear up;
    final Linear down;
    private final DecoderConfig config;
    /** Whether n1, n2 and m are computed again in the backward: they are cheap, and a third of what would be kept. */
    private final boolean forgets;
    /** The layers that take n1, and those that take n2. */
    private final List<Linear> ofN1;
    private final List<Linear> ofAttention;
    private final List<Linear> ofN2;
    private final List<Linear> ofMiddle;

    DecoderLayer(DecoderConfig config, int index, boolean forgets, SlottedWeight inputNorm, SlottedWeight postNorm,
            SlottedWeight qNorm, SlottedWeight kNorm, List<Linear> linears) {
        this.config = config;
        this.index = index;
        this.forgets = forgets;
        this.inputNorm = inputNorm;
        this.postNorm = postNorm;
        this.qNorm = qNorm;
        this.kNorm = kNorm;
        q = linears.get(0);
        k = linears.get(1);
        v = linears.get(2);
        o = linears.get(3);
        gate = linears.get(4);
        up = linears.get(5);
        down = linears.get(6);
        ofN1 = List.of(q, k, v);
        ofAttention = List.of(o);
        ofN2 = List.of(gate, up);
        ofMiddle = List.of(down);
    }

    /** The layers with which it begins. */
    List<Linear> first() {
        return ofN1;
    }

    /** Those with which its backward begins. */
    List<Linear> last() {
        return ofMiddle;
    }

    List<Linear> linears() {
        return List.of(q, k, v, o, gate, up, down);
    }

    /**
     * What the forward leaves for the backward; {@code u…} and {@code of…} are the adapters' inner activations. n1, n2
     * and m are null where they are forgotten until the backward; where that follows at once, without output, they are
     * kept.
     */
    static final class Saved {
        Tensor h;
        Tensor n1;
        Tensor rstd1;
        /** As attention sees them: normed and rotated. */
        Tensor q;
        Tensor k;
        /** Before their norms, and the norms' statistics; null without. */
        Tensor rawQ;
        Tensor rawK;
        Tensor rstdQ;
        Tensor rstdK;
        Tensor v;
        Tensor attention;
        Tensor lse;
        Tensor h2;
        Tensor n2;
        Tensor rstd2;
        Tensor gate;
        Tensor up;
        Tensor middle;
        Linear.Inner ofN1;
        Tensor uo;
        Linear.Inner ofN2;
        Tensor udown;

        /** Releases what only the layer's second half needs, early in the backward. */
        private void releaseSecondHalf(Stream s) {
            s.release(h2, n2, rstd2, gate, up, middle, ofN2.memory(), udown);
            h2 = null;
            n2 = null;
            rstd2 = null;
            gate = null;
            up = null;
            middle = null;
            ofN2 = null;
            udown = null;
        }

        /** Releases everything but the layer's input. */
        void release(Stream s) {
            if (ofN2 != null) {
                releaseSecondHalf(s);
            }
            s.release(n1, rstd1, rawQ, rawK, rstdQ, rstdK, q, k, v, attention, lse, ofN1.memory(), uo);
        }
    }

    private AttentionShape attentionShape(int maxLength) {
        return new AttentionShape(config.heads(), config.kvHeads(), config.headDim(), config.slidingWindow(index),
                maxLength);
    }

    /**
     * Runs the layer.
     *
     * @param h [N, C], kept
     * @param cache null, or where keys and values are appended and read
     * @param ends null, or I32 [K] the rows whose output is wanted: what is behind attention is computed of them alone
     * @param out [N, C] or [K, C], overwritten; null when the output is not needed (recomputation), which saves the last
     *         product
     * @param kept whether a backward follows, which needs all rows; otherwise gate and up need not be written
     * @param next the linear layers that run behind this one with as many rows, or none
     */
    Saved forward(Stream s, DeviceBatch b, Tensor rope, Adapters adapters, KvCache cache, Tensor h, Tensor ends,
            Tensor out, boolean kept, List<Linear> next) {
        long n = h.rows();
        DType type = h.dtype();
        DType wide = Linear.wide(type);
        Saved a = new Saved();
        a.h = h;
        a.n1 = s.take(type, n, config.hidden());
        a.rstd1 = s.take(wide, n);
        a.q = s.take(type, n, q.outFeatures());
        a.k = s.take(type, n, k.outFeatures());
        a.v = s.take(type, n, v.outFeatures());
        if (ends == null) {
            GatedLinear.announce(s, adapters, ofAttention, ofN2);
        }
        Runnable norm1 = norm(s, h, inputNorm.weight(adapters), a.n1, a.rstd1);
        if (cache != null && !kept) {
            a.ofN1 = Linear.forward(s, adapters, ofN1, around(h, inputNorm.weight(adapters), norm1, null), a.n1,
                    a.q, a.k, a.v);
        } else {
            norm1.run();
            a.ofN1 = Linear.forward(s, adapters, ofN1, a.n1, a.q, a.k, a.v);
        }
        if (qNorm != null) {
            a.rawQ = a.q;
            a.rawK = a.k;
            a.rstdQ = s.take(wide, n * config.heads());
            a.rstdK = s.take(wide, n * config.kvHeads());
            a.q = headNorm(s, qNorm.weight(adapters), a.rawQ, a.rstdQ);
            a.k = headNorm(s, kNorm.weight(adapters), a.rawK, a.rstdK);
        }
        a.attention = s.take(type, n, q.outFeatures());
        a.lse = s.take(wide, n, config.heads());
        Tensor keys = a.k;
        Tensor values = a.v;
        if (cache != null) {
            keys = cache.keys(index);
            values = cache.values(index);
            DecoderOps.ropeToCache(s, a.q, a.k, a.v, b.positions, rope, config.headDim(), b.cu, b.kvStart, b.kvLen,
                    keys, values);
        } else {
            DecoderOps.rope(s, a.q, a.k, b.positions, rope, config.headDim(), false);
        }
        DecoderOps.attention(s, attentionShape(b.maxLength), a.q, keys, values, b.cu, b.kvStart, b.kvLen, a.attention,
                a.lse);
        Tensor from = h;
        if (ends != null) {
            n = ends.size();
            a.attention = gather(s, a.attention, ends, true);
            from = gather(s, h, ends, false);
        }
        a.h2 = s.take(type, n, config.hidden());
        GatedLinear.announce(s, adapters, List.of(), ends == null ? ofN2 : List.of());
        a.uo = o.forward(s, adapters, a.attention, from, a.h2);
        s.release(from == h ? null : from);
        a.n2 = s.take(type, n, config.hidden());
        a.rstd2 = s.take(wide, n);
        a.gate = s.take(type, n, config.intermediate());
        a.up = s.take(type, n, config.intermediate());
        a.middle = s.take(type, n, config.intermediate());
        Linear.announce(s, ofMiddle);
        Runnable norm2 = norm(s, a.h2, postNorm.weight(adapters), a.n2, a.rstd2);
        if (cache != null && !kept) {
            a.ofN2 = Linear.forward(s, adapters, ofN2,
                    around(a.h2, postNorm.weight(adapters), norm2, a.middle), a.n2, a.gate, a.up);
            Linear.announce(s, next);
            a.udown = down.forward(s, adapters, a.middle, a.h2, out);
        } else {
            norm2.run();
            GatedLinear.Inners u = GatedLinear.forward(s, adapters, ofN2, a.n2, a.gate, a.up, kept, down, a.middle,
                    !forgets, a.h2, out, next, DecoderOps.SWIGLU);
            a.ofN2 = u.of();
            a.udown = u.behind();
        }
        if (forgets && out != null) {
            s.release(a.n1, a.n2, a.middle);
            a.n1 = null;
            a.n2 = null;
            a.middle = null;
        }
        return a;
    }

    private static Tensor gather(Stream s, Tensor x, Tensor rows, boolean release) {
        Tensor out = s.take(x.dtype(), rows.size(), x.cols());
        DecoderOps.gatherRows(s, x, rows, out);
        s.release(release ? x : null);
        return out;
    }

    private Runnable norm(Stream s, Tensor x, Tensor weight, Tensor y, Tensor rstd) {
        return () -> DecoderOps.rmsNorm(s, x, weight, config.rmsNormEps(), y, rstd);
    }

    /** At generation nobody needs what lies between: a backend may do these steps with the products. */
    private LoraKernels.Around around(Tensor h, Tensor weight, Runnable norm, Tensor gated) {
        return new LoraKernels.Around(h, weight, config.rmsNormEps(), norm, gated, DecoderOps.SWIGLU);
    }

    /**
     * The gradient of {@link #forward}: gradients of trained parameters are accumulated.
     *
     * @param a overwritten and released in part; {@link Saved#release} does the rest
     * @param dh [N, C] the gradient of the layer's output; overwritten by that of its input
     * @param next the linear layers that run behind this one's, or none
     */
    void backward(Stream s, DeviceBatch b, Tensor rope, Adapters adapters, Saved a, Tensor dh, List<Linear> next) {
        long n = dh.rows();
        DType type = dh.dtype();
        boolean made = a.middle != null;
        if (!made) {
            a.middle = s.take(type, n, config.intermediate());
        }
        // The widest tensors of the step: each gradient takes the place of what it is the gradient of.
        Linear.announce(s, ofN2);
        GatedLinear.backward(s, adapters, down, dh, a.middle, made, a.udown, a.gate, a.up, DecoderOps.SWIGLU);
        Tensor dGate = a.gate;
        Tensor dUp = a.up;
        Tensor dn = s.take(type, n, config.hidden());
        if (a.n2 == null) {
            a.n2 = s.take(type, n, config.hidden());
            norm(s, a.h2, postNorm.weight(adapters), a.n2, a.rstd2).run();
        }
        Linear.announce(s, ofAttention);
        Linear.backward(s, adapters, ofN2, new Tensor[]{dGate, dUp}, a.n2, a.ofN2, dn);
        DecoderOps.rmsNormBackward(s, dn, a.h2, postNorm.weight(adapters), a.rstd2, dh, dh, postNorm.grad(adapters));
        a.releaseSecondHalf(s);
        Tensor dAttention = s.take(type, n, q.outFeatures());
        Linear.announce(s, ofN1);
        o.backward(s, adapters, dh, a.attention, a.uo, false, dAttention);
        Tensor dq = s.take(type, n, q.outFeatures());
        Tensor dk = s.take(type, n, k.outFeatures());
        Tensor dv = s.take(type, n, v.outFeatures());
        DecoderOps.attentionBackward(s, attentionShape(b.maxLength), dAttention, a.q, a.k, a.v, a.attention, a.lse,
                b.cu, dq, dk, dv);
        s.release(dAttention);
        DecoderOps.rope(s, dq, dk, b.positions, rope, config.headDim(), true);
        if (qNorm != null) {
            dq = headNormBackward(s, qNorm, adapters, dq, a.rawQ, a.rstdQ);
            dk = headNormBackward(s, kNorm, adapters, dk, a.rawK, a.rstdK);
        }
        if (a.n1 == null) {
            a.n1 = s.take(type, n, config.hidden());
            norm(s, a.h, inputNorm.weight(adapters), a.n1, a.rstd1).run();
        }
        Linear.announce(s, next);
        Linear.backward(s, adapters, ofN1, new Tensor[]{dq, dk, dv}, a.n1, a.ofN1, dn);
        s.release(dq, dk, dv);
        DecoderOps.rmsNormBackward(s, dn, a.h, inputNorm.weight(adapters), a.rstd1, dh, dh, inputNorm.grad(adapters));
        s.release(dn);
    }

    /** Rows of heads as rows of their own: [N, heads·D] as [N·heads, D]. */
    private Tensor heads(Tensor t) {
        return t.view(t.size() / config.headDim(), config.headDim());
    }

    private Tensor headNorm(Stream s, Tensor weight, Tensor raw, Tensor rstd) {
        Tensor normed = s.take(raw.dtype(), raw.shape());
        DecoderOps.rmsNorm(s, heads(raw), weight, config.rmsNormEps(), heads(normed), rstd);
        return normed;
    }

    /** Releases dy and returns the gradient of what was normed. */
    private Tensor headNormBackward(Stream s, SlottedWeight norm, Adapters adapters, Tensor dy, Tensor raw,
            Tensor rstd) {
        Tensor dx = s.take(dy.dtype(), dy.shape());
        DecoderOps.rmsNormBackward(s, heads(dy), heads(raw), norm.weight(adapters), rstd, null, heads(dx),
                norm.grad(adapters));
        s.release(dy);
        return dx;
    }
}
