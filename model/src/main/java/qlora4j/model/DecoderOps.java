package qlora4j.model;

import java.util.Arrays;
import qlora4j.lora.Dropout;
import qlora4j.lora.GatedLinear;
import qlora4j.lora.Gating;
import qlora4j.tensor.Aliasing;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Checks shapes, types and aliasing of the decoder's operations once, then calls the stream's {@link DecoderKernels},
 * where each is described. Only shapes are looked at: the checks hold on the plan device and on a GPU too.
 */
public final class DecoderOps {
    private DecoderOps() {
    }

    /** See {@link DecoderKernels#embedding}. */
    public static void embedding(Stream s, Tensor tokens, Tensor table, Tensor out) {
        String op = "embedding";
        ints(op, "tokens", tokens, tokens.size());
        rank2(op, "table", table);
        floats(op, "out", out, tokens.size(), table.cols());
        Aliasing.checkDisjoint(op, out, tokens, table);
        s.kernels(DecoderKernels.class).embedding(s, tokens, table, out);
    }

    /** See {@link DecoderKernels#embeddingBackward}. */
    public static void embeddingBackward(Stream s, Tensor tokens, Tensor dOut, Tensor dTable) {
        String op = "embeddingBackward";
        ints(op, "tokens", tokens, tokens.size());
        rank2(op, "dTable", dTable);
        floats(op, "dOut", dOut, tokens.size(), dTable.cols());
        Aliasing.checkDisjoint(op, dTable, tokens, dOut);
        s.kernels(DecoderKernels.class).embeddingBackward(s, tokens, dOut, dTable);
    }

    /** See {@link DecoderKernels#embeddingNoise}. */
    public static void embeddingNoise(Stream s, EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu,
            Tensor h) {
        String op = "embeddingNoise";
        rank2(op, "h", h);
        ints(op, "samples", samples, h.dim(0));
        ints(op, "positions", positions, h.dim(0));
        ints(op, "cu", cu, cu.size());
        ints(op, "step", noise.step(), 1);
        if (cu.size() < 1 || h.cols() > Dropout.MAX_FEATURES) {
            throw new IllegalArgumentException(op + ": cumulative lengths " + cu + " of " + h);
        }
        Aliasing.checkDisjoint(op, h, samples, positions, cu, noise.step());
        s.kernels(DecoderKernels.class).embeddingNoise(s, noise, samples, positions, cu, h);
    }

    /** See {@link DecoderKernels#rmsNorm}. */
    public static void rmsNorm(Stream s, Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd) {
        String op = "rmsNorm";
        rank2(op, "x", x);
        floats(op, "weight", weight, x.cols());
        like(op, "y", y, x);
        statistics(op, "rstd", rstd, x, x.dim(0));
        Aliasing.checkDisjoint(op, y, x, weight, rstd);
        Aliasing.checkDisjoint(op, rstd, x, weight);
        s.kernels(DecoderKernels.class).rmsNorm(s, x, weight, eps, y, rstd);
    }

    /** See {@link DecoderKernels#rmsNormBackward}. */
    public static void rmsNormBackward(Stream s, Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual,
            Tensor dx, Tensor dWeight) {
        String op = "rmsNormBackward";
        rank2(op, "x", x);
        like(op, "dy", dy, x);
        floats(op, "weight", weight, x.cols());
        statistics(op, "rstd", rstd, x, x.dim(0));
        like(op, "dx", dx, x);
        Aliasing.checkDisjoint(op, dx, dy, x, weight, rstd);
        if (residual != null) {
            like(op, "residual", residual, x);
            sameOrDisjoint(op, dx, residual);
        }
        if (dWeight != null) {
            floats(op, "dWeight", dWeight, x.cols());
            Aliasing.checkDisjoint(op, dWeight, dy, x, weight, rstd, residual, dx);
        }
        s.kernels(DecoderKernels.class).rmsNormBackward(s, dy, x, weight, rstd, residual, dx, dWeight);
    }

    /** See {@link DecoderKernels#rope}. */
    public static void rope(Stream s, Tensor q, Tensor k, Tensor positions, Tensor table, int headDim,
            boolean inverse) {
        checkRope(q, k, positions, table, headDim);
        s.kernels(DecoderKernels.class).rope(s, q, k, positions, table, headDim, inverse);
    }

    private static void checkRope(Tensor q, Tensor k, Tensor positions, Tensor table, int headDim) {
        String op = "rope";
        rank2(op, "q", q);
        rank2(op, "k", k);
        ints(op, "positions", positions, q.dim(0));
        rank2(op, "table", table);
        statistics(op, "table", table, q, table.dim(0), headDim);
        if (headDim < 2 || headDim % 2 != 0 || q.cols() % headDim != 0 || k.cols() % headDim != 0
                || k.dim(0) != q.dim(0)) {
            throw new IllegalArgumentException(op + ": q " + q + " and k " + k
                    + " must be rows of heads of an even headDim, which is " + headDim);
        }
        Aliasing.checkDisjoint(op, q, k, positions, table);
        Aliasing.checkDisjoint(op, k, positions, table);
    }

    /** See {@link DecoderKernels#attention}. */
    public static void attention(Stream s, AttentionShape shape, Tensor q, Tensor k, Tensor v, Tensor cuQ,
            Tensor kvStart, Tensor kvLen, Tensor out, Tensor lse) {
        String op = "attention";
        heads(op, "q", q, shape.heads(), shape);
        heads(op, "k", k, shape.kvHeads(), shape);
        like(op, "v", v, k);
        sequences(op, cuQ, kvStart, kvLen);
        like(op, "out", out, q);
        statistics(op, "lse", lse, q, q.dim(0), shape.heads());
        Aliasing.checkDisjoint(op, out, q, k, v, cuQ, kvStart, kvLen, lse);
        Aliasing.checkDisjoint(op, lse, q, k, v, cuQ, kvStart, kvLen);
        s.kernels(DecoderKernels.class).attention(s, shape, q, k, v, cuQ, kvStart, kvLen, out, lse);
    }

    /** See {@link DecoderKernels#attentionBackward}. */
    public static void attentionBackward(Stream s, AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v,
            Tensor out, Tensor lse, Tensor cu, Tensor dq, Tensor dk, Tensor dv) {
        String op = "attentionBackward";
        heads(op, "q", q, shape.heads(), shape);
        heads(op, "k", k, shape.kvHeads(), shape);
        floats(op, "k", k, q.dim(0), k.cols());
        like(op, "v", v, k);
        like(op, "dOut", dOut, q);
        like(op, "out", out, q);
        statistics(op, "lse", lse, q, q.dim(0), shape.heads());
        ints(op, "cu", cu, Math.max(1, cu.size()));
        like(op, "dq", dq, q);
        like(op, "dk", dk, k);
        like(op, "dv", dv, k);
        Aliasing.checkDisjoint(op, dq, dOut, q, k, v, out, lse, cu, dk, dv);
        Aliasing.checkDisjoint(op, dk, dOut, q, k, v, out, lse, cu, dv);
        Aliasing.checkDisjoint(op, dv, dOut, q, k, v, out, lse, cu);
        s.kernels(DecoderKernels.class).attentionBackward(s, shape, dOut, q, k, v, out, lse, cu, dq, dk, dv);
    }

    /** See {@link DecoderKernels#appendToCache}. */
    public static void appendToCache(Stream s, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen,
            Tensor kCache, Tensor vCache) {
        checkAppend(k, v, cuQ, kvStart, kvLen, kCache, vCache);
        s.kernels(DecoderKernels.class).appendToCache(s, k, v, cuQ, kvStart, kvLen, kCache, vCache);
    }

    private static void checkAppend(Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache,
            Tensor vCache) {
        String op = "appendToCache";
        rank2(op, "k", k);
        like(op, "v", v, k);
        rank2(op, "kCache", kCache);
        floats(op, "kCache", kCache, kCache.dim(0), k.cols());
        like(op, "vCache", vCache, kCache);
        sequences(op, cuQ, kvStart, kvLen);
        Aliasing.checkDisjoint(op, kCache, k, v, cuQ, kvStart, kvLen, vCache);
        Aliasing.checkDisjoint(op, vCache, k, v, cuQ, kvStart, kvLen);
    }

    /** See {@link DecoderKernels#ropeToCache}. */
    public static void ropeToCache(Stream s, Tensor q, Tensor k, Tensor v, Tensor positions, Tensor table, int headDim,
            Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache, Tensor vCache) {
        checkRope(q, k, positions, table, headDim);
        checkAppend(k, v, cuQ, kvStart, kvLen, kCache, vCache);
        s.kernels(DecoderKernels.class).ropeToCache(s, q, k, v, positions, table, headDim, cuQ, kvStart, kvLen, kCache,
                vCache);
    }

    /** {@link #swiglu} and {@link #swigluBackward} for {@link GatedLinear}. */
    public static final Gating SWIGLU = new Gating() {
        @Override
        public void forward(Stream s, Tensor gate, Tensor up, Tensor out) {
            swiglu(s, gate, up, out);
        }

        @Override
        public void backward(Stream s, Tensor dOut, Tensor gate, Tensor up) {
            swigluBackward(s, dOut, gate, up, gate, up);
        }

        @Override
        public void forward(Tensor gate, Tensor up, long from, int n, float[] out, int at) {
            VectorElementwise.swiglu(gate, up, from, n, out, at);
        }

        @Override
        public void backward(Tensor dOut, Tensor gate, Tensor up, long from, int n, float[] scratch) {
            VectorElementwise.swigluGradients(dOut, gate, up, from, n, scratch);
        }
    };

    /** See {@link DecoderKernels#swiglu}. */
    public static void swiglu(Stream s, Tensor gate, Tensor up, Tensor out) {
        String op = "swiglu";
        like(op, "up", up, gate);
        like(op, "out", out, gate);
        Aliasing.checkDisjoint(op, out, gate, up);
        s.kernels(DecoderKernels.class).swiglu(s, gate, up, out);
    }

    /** See {@link DecoderKernels#swigluBackward}. */
    public static void swigluBackward(Stream s, Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp) {
        String op = "swigluBackward";
        like(op, "dOut", dOut, gate);
        like(op, "up", up, gate);
        like(op, "dGate", dGate, gate);
        like(op, "dUp", dUp, gate);
        sameOrDisjoint(op, dGate, gate);
        sameOrDisjoint(op, dUp, up);
        Aliasing.checkDisjoint(op, dGate, dOut, up, dUp);
        Aliasing.checkDisjoint(op, dUp, dOut, gate);
        s.kernels(DecoderKernels.class).swigluBackward(s, dOut, gate, up, dGate, dUp);
    }

    /** See {@link DecoderKernels#gatherRows}. */
    public static void gatherRows(Stream s, Tensor x, Tensor index, Tensor out) {
        String op = "gatherRows";
        rank2(op, "x", x);
        ints(op, "index", index, index.size());
        floats(op, "out", out, index.size(), x.cols());
        Aliasing.checkDisjoint(op, out, x, index);
        s.kernels(DecoderKernels.class).gatherRows(s, x, index, out);
    }

    /** See {@link DecoderKernels#crossEntropy}. */
    public static void crossEntropy(Stream s, Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            boolean gradient) {
        String op = "crossEntropy";
        rank2(op, "logits", logits);
        labelled(op, logits.dim(0), labels, scale, nll, loss);
        Aliasing.checkDisjoint(op, logits, labels, scale, nll, loss);
        Aliasing.checkDisjoint(op, nll, labels, scale, loss);
        Aliasing.checkDisjoint(op, loss, labels, scale);
        s.kernels(DecoderKernels.class).crossEntropy(s, logits, labels, scale, nll, loss, gradient);
    }

    /** See {@link DecoderKernels#sample}. */
    public static void sample(Stream s, SamplingConfig config, Tensor logits, Tensor history, Tensor lengths,
            Tensor tokens) {
        String op = "sample";
        rank2(op, "logits", logits);
        like(op, "logits", logits, logits);
        if (logits.cols() == 0) {
            throw new IllegalArgumentException(op + ": logits " + logits + " of no tokens");
        }
        rank2(op, "history", history);
        type(op, "history", history, DType.I32);
        dims(op, "history", history, logits.dim(0), history.cols());
        ints(op, "lengths", lengths, logits.dim(0));
        ints(op, "tokens", tokens, logits.dim(0));
        Aliasing.checkDisjoint(op, tokens, logits, history, lengths);
        s.kernels(DecoderKernels.class).sample(s, config, logits, history, lengths, tokens);
    }

    /** See {@link DecoderKernels#advance}. */
    public static void advance(Stream s, Tensor chosen, Tensor tokens, Tensor positions, Tensor kvLen, Tensor history,
            Tensor lengths) {
        String op = "advance";
        for (Tensor t : new Tensor[]{chosen, tokens, positions, kvLen, lengths}) {
            ints(op, "a step's numbers", t, chosen.size());
        }
        rank2(op, "history", history);
        type(op, "history", history, DType.I32);
        dims(op, "history", history, chosen.size(), history.cols());
        Aliasing.checkDisjoint(op, tokens, chosen, positions, kvLen, history, lengths);
        Aliasing.checkDisjoint(op, positions, chosen, kvLen, history, lengths);
        Aliasing.checkDisjoint(op, kvLen, chosen, history, lengths);
        Aliasing.checkDisjoint(op, history, chosen, lengths);
        Aliasing.checkDisjoint(op, lengths, chosen);
        s.kernels(DecoderKernels.class).advance(s, chosen, tokens, positions, kvLen, history, lengths);
    }

    /**
     * The language-model head with its loss: {@code logits = h·headᵀ}, {@link DecoderKernels#crossEntropy}, and the
     * gradients {@code dH = dLogits·head}, {@code dHead += dLogitsᵀ·h}. Goes over chunks of rows with one chunk of
     * logits in memory, never all of them.
     *
     * @param h [K, C] the rows that have a label
     * @param head [V, C]
     * @param labels I32 [K]
     * @param scale [1] F32 or F64: one over the number of label tokens of the whole step
     * @param nll [K] F32 or F64, overwritten
     * @param loss F64 [1], accumulated
     * @param dH [K, C], overwritten; null: not wanted
     * @param dHead [V, C], accumulated; null where the head is frozen
     * @param chunkRows rows whose logits are held at once, at least 1
     */
    public static void headLoss(Stream s, Tensor h, Tensor head, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            Tensor dH, Tensor dHead, int chunkRows) {
        headLoss(s, h, head, labels, scale, nll, loss, dH, dHead, null, chunkRows);
    }

    /** Works on the gradient of some rows' logits {@code [k, V]} and what the head was given for them, {@code [k, C]}. */
    interface LogitGradient {
        void rows(Stream s, Tensor dLogits, Tensor x);
    }

    /** The same; {@code rows} sees the gradients of all logits, chunk by chunk, or is null. */
    static void headLoss(Stream s, Tensor h, Tensor head, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            Tensor dH, Tensor dHead, LogitGradient rows, int chunkRows) {
        String op = "headLoss";
        rank2(op, "h", h);
        rank2(op, "head", head);
        floats(op, "head", head, head.dim(0), h.cols());
        labelled(op, h.dim(0), labels, scale, nll, loss);
        if (dH != null) {
            like(op, "dH", dH, h);
            Aliasing.checkDisjoint(op, dH, h, head, labels, scale, nll, loss, dHead);
        }
        if (dHead != null) {
            like(op, "dHead", dHead, head);
            Aliasing.checkDisjoint(op, dHead, h, head, labels, scale, nll, loss);
        }
        if (chunkRows < 1) {
            throw new IllegalArgumentException(op + ": chunkRows " + chunkRows + " must be at least 1");
        }
        long n = h.dim(0);
        if (n == 0) {
            return;
        }
        Tensor chunk = s.take(h.dtype() == DType.F64 ? DType.F64 : DType.F32, Math.min(chunkRows, n), head.dim(0));
        for (long from = 0; from < n; from += chunkRows) {
            long to = Math.min(from + chunkRows, n);
            Tensor x = h.rows(from, to);
            Tensor logits = chunk.rows(0, to - from);
            Matmul.nt(s, x, head, 1, logits, false);
            crossEntropy(s, logits, labels.rows(from, to), scale, nll.rows(from, to), loss,
                    dH != null || dHead != null || rows != null);
            if (dH != null) {
                Matmul.nn(s, logits, head, 1, dH.rows(from, to), false);
            }
            if (dHead != null) {
                Matmul.tn(s, logits, x, 1, dHead, true);
            }
            if (rows != null) {
                rows.rows(s, logits, x);
            }
        }
        s.release(chunk);
    }

    private static void labelled(String op, long rows, Tensor labels, Tensor scale, Tensor nll, Tensor loss) {
        ints(op, "labels", labels, rows);
        floats(op, "scale", scale, 1);
        floats(op, "nll", nll, rows);
        type(op, "loss", loss, DType.F64);
        dims(op, "loss", loss, 1);
    }

    private static void heads(String op, String name, Tensor t, int heads, AttentionShape shape) {
        rank2(op, name, t);
        floats(op, name, t, t.dim(0), (long) heads * shape.headDim());
    }

    private static void sequences(String op, Tensor cuQ, Tensor kvStart, Tensor kvLen) {
        ints(op, "kvStart", kvStart, kvStart.size());
        ints(op, "kvLen", kvLen, kvStart.size());
        ints(op, "cuQ", cuQ, kvStart.size() + 1);
    }

    /** What is kept in float32 beside activations of 16 or 32 bits, in float64 beside float64. */
    private static void statistics(String op, String name, Tensor t, Tensor activation, long... shape) {
        type(op, name, t, activation.dtype() == DType.F64 ? DType.F64 : DType.F32);
        dims(op, name, t, shape);
    }

    private static void rank2(String op, String name, Tensor t) {
        if (t.rank() != 2) {
            throw new IllegalArgumentException(op + ": " + name + " is " + t + ", expected two dimensions");
        }
    }

    private static void floats(String op, String name, Tensor t, long... shape) {
        floats(op, name, t);
        dims(op, name, t, shape);
    }

    private static void floats(String op, String name, Tensor t) {
        if (!t.dtype().isFloat()) {
            throw new IllegalArgumentException(op + ": " + name + " is " + t + ", expected floats");
        }
    }

    /** Floats of the shape of another tensor. */
    private static void like(String op, String name, Tensor t, Tensor other) {
        floats(op, name, t);
        if (!t.hasShapeOf(other)) {
            dims(op, name, t, other.shape());
        }
    }

    private static void ints(String op, String name, Tensor t, long n) {
        type(op, name, t, DType.I32);
        dims(op, name, t, n);
    }

    private static void type(String op, String name, Tensor t, DType type) {
        if (t.dtype() != type) {
            throw new IllegalArgumentException(op + ": " + name + " is " + t + ", expected " + type);
        }
    }

    private static void dims(String op, String name, Tensor t, long... shape) {
        if (!t.hasShape(shape)) {
            throw new IllegalArgumentException(op + ": " + name + " is " + t + ", expected " + Arrays.toString(shape));
        }
    }

    /** For operations that read an element before they write it: out may be the same memory as in, not part of it. */
    private static void sameOrDisjoint(String op, Tensor out, Tensor in) {
        boolean same = out.device().equals(in.device()) && !out.device().equals(Device.PLAN)
                && out.data().address() == in.data().address() && out.dtype() == in.dtype();
        if (!same) {
            Aliasing.checkDisjoint(op, out, in);
        }
    }
}
