package qlora4j.cuda;

import java.util.List;
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderKernels;
import qlora4j.model.EmbeddingNoise;
import qlora4j.model.SamplingConfig;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The decoder's kernels: one {@code .cu} file an operation, activations in float32 or bfloat16, sums in float32. Work is
 * divided by shapes alone and nothing is added in an order left to chance, so a run repeats bit for bit.
 */
final class CudaDecoder implements DecoderKernels {
    private static final DType[] COMPUTED = {DType.F32, DType.BF16};
    private static final List<DType[]> ALL_PAIRS = List.of(new DType[]{DType.F32, DType.F32},
            new DType[]{DType.BF16, DType.BF16}, new DType[]{DType.BF16, DType.F32},
            new DType[]{DType.F32, DType.BF16});
    /** Activations and the weight beside them, which is of their type or a trained parameter in float32. */
    private static final List<DType[]> WEIGHTED = ALL_PAIRS.subList(0, 3);

    private static final int WARP = 32;
    private static final int ROW_THREADS = 256;
    private static final int NORM_THREADS = 512;
    private static final int LOGIT_THREADS = 1024;
    /** Bytes that a thread moves at a time. */
    private static final int PIECE = 16;

    private final CudaBackend backend;
    private final CudaFaults faults;
    private final CudaAttention attention;
    private final Variants embedding;
    private final Variants embeddingBackward;
    private final Variants embeddingNoise;
    private final Variants norm;
    private final Variants normBackward;
    private final Variants normBackwardWeight;
    private final Variants rope;
    private final Kernel ropeAppend;
    private final Variants swiglu;
    private final Variants swigluBackward;
    private final Kernel appendToCache;
    private final Kernel gatherRows;
    private final Variants crossEntropy;
    private final Kernel crossEntropyLoss;
    private final Variants sample;
    private final Kernel advance;

    CudaDecoder(CudaBackend backend) {
        this.backend = backend;
        faults = backend.faults();
        attention = new CudaAttention(backend);
        CudaModules m = backend.modules();
        embedding = Variants.ofPairs(m, "embedding", "embedding_forward", ALL_PAIRS);
        embeddingBackward = Variants.ofPairs(m, "embedding", "embedding_backward", ALL_PAIRS);
        embeddingNoise = Variants.of(m, "embedding_noise", "embedding_noise", COMPUTED);
        norm = Variants.ofPairs(m, "rmsnorm", "rmsnorm_forward", WEIGHTED);
        normBackward = Variants.ofPairs(m, "rmsnorm", "rmsnorm_backward", WEIGHTED);
        normBackwardWeight = Variants.ofPairs(m, "rmsnorm", "rmsnorm_backward_weight", WEIGHTED);
        rope = Variants.of(m, "rope", "rope", COMPUTED);
        ropeAppend = m.kernel("rope", "rope_append_bf16");
        swiglu = Variants.of(m, "swiglu", "swiglu_forward", COMPUTED);
        swigluBackward = Variants.of(m, "swiglu", "swiglu_backward", COMPUTED);
        appendToCache = m.kernel("append_to_cache", "append_to_cache");
        gatherRows = m.kernel("gather_rows", "gather_rows");
        crossEntropy = Variants.of(m, "cross_entropy", "cross_entropy_rows", DType.F32);
        crossEntropyLoss = m.kernel("cross_entropy", "cross_entropy_loss");
        sample = Variants.of(m, "sample", "sample", COMPUTED);
        advance = m.kernel("advance", "advance");
    }

    /** Threads for a row of {@code bytes}: each moves two pieces, where the row is long enough for whole warps. */
    static int threads(long bytes, int most) {
        long threads = Math.ceilDiv(Math.ceilDiv(bytes, 2L * PIECE), WARP) * WARP;
        return Math.clamp(threads, WARP, most);
    }

    /** Threads for a row of a norm; where rows are few, a piece each, as nothing else hides how long a thread takes. */
    private static int normThreads(Tensor x) {
        return threads((x.dim(0) <= CudaMatmul.FEW_ROWS ? 2 : 1) * x.dtype().bytes(x.cols()), NORM_THREADS);
    }

    /** Blocks that cover {@code t} with a piece a thread. */
    private static long blocks(Tensor t) {
        return Math.ceilDiv(t.bytes(), (long) ROW_THREADS * PIECE);
    }

    @Override
    public void embedding(Stream s, Tensor tokens, Tensor table, Tensor out) {
        embedding.get(table, out).launch((CudaStream) s, tokens.size(), ROW_THREADS,
                Kernel.args().ptr(tokens).ptr(table).ptr(out).i32(table.cols()).i32(table.rows())
                        .ptr(faults.address()));
    }

    @Override
    public void embeddingBackward(Stream s, Tensor tokens, Tensor dOut, Tensor dTable) {
        embeddingBackward.get(dOut, dTable).launch((CudaStream) s, tokens.size(), ROW_THREADS,
                Kernel.args().ptr(tokens).ptr(dOut).ptr(dTable).i32((int) tokens.size()).i32(dTable.cols())
                        .i32(dTable.rows()).ptr(faults.address()));
    }

    @Override
    public void embeddingNoise(Stream s, EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu, Tensor h) {
        int rows = Math.toIntExact(h.dim(0));
        if (rows == 0) {
            return;
        }
        long threads = (long) rows * Math.ceilDiv(h.cols(), 4);
        embeddingNoise.get(h).launch((CudaStream) s, Math.ceilDiv(threads, (long) ROW_THREADS), ROW_THREADS,
                Kernel.args().f64(noise.alpha()).i64(noise.seed()).i32(EmbeddingNoise.MODULE).ptr(noise.step())
                        .ptr(samples).ptr(positions).ptr(cu).i32((int) cu.size() - 1).ptr(h).i32(rows).i32(h.cols()));
    }

    @Override
    public void rmsNorm(Stream s, Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd) {
        Variants.same("rmsNorm", x, y);
        int c = x.cols();
        norm.get(x, weight).launchEarly((CudaStream) s, x.dim(0), normThreads(x),
                Kernel.args().ptr(x).ptr(weight).f64(eps).ptr(y).ptr(rstd).i32(c));
    }

    @Override
    public void rmsNormBackward(Stream s, Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual, Tensor dx,
            Tensor dWeight) {
        Variants.same("rmsNormBackward", x, dy);
        Variants.same("rmsNormBackward", x, residual);
        Variants.same("rmsNormBackward", x, dx);
        CudaStream stream = (CudaStream) s;
        int c = x.cols();
        if (dWeight != null) {
            normBackwardWeight.get(x, dWeight).launch(stream, Math.ceilDiv(c, WARP), WARP * WARP,
                    Kernel.args().ptr(dy).ptr(x).ptr(rstd).ptr(dWeight).i32((int) x.dim(0)).i32(c));
        }
        normBackward.get(x, weight).launch(stream, x.dim(0), threads(x.dtype().bytes(c), NORM_THREADS),
                Kernel.args().ptr(dy).ptr(x).ptr(weight).ptr(rstd).ptr(residual).ptr(dx).i32(c));
    }

    @Override
    public void rope(Stream s, Tensor q, Tensor k, Tensor positions, Tensor table, int headDim, boolean inverse) {
        Variants.same("rope", q, k);
        rope.get(q).launchEarly((CudaStream) s, positions.size(),
                threads(q.dtype().bytes((long) q.cols() + k.cols()), ROW_THREADS),
                Kernel.args().ptr(q).ptr(k).ptr(positions).ptr(table).i32(q.cols() / headDim).i32(k.cols() / headDim)
                        .i32(headDim).i32(table.rows()).flag(inverse).ptr(faults.address()));
    }

    @Override
    public void attention(Stream s, AttentionShape shape, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart,
            Tensor kvLen, Tensor out, Tensor lse) {
        attention.forward((CudaStream) s, shape, q, k, v, cuQ, kvStart, kvLen, out, lse);
    }

    @Override
    public void attentionBackward(Stream s, AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out,
            Tensor lse, Tensor cu, Tensor dq, Tensor dk, Tensor dv) {
        attention.backward((CudaStream) s, shape, dOut, q, k, v, out, lse, cu, dq, dk, dv);
    }

    @Override
    public void appendToCache(Stream s, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache,
            Tensor vCache) {
        Variants.same("appendToCache", k, v);
        Variants.same("appendToCache", k, kCache);
        Variants.same("appendToCache", k, vCache);
        appendToCache.launch((CudaStream) s, k.dim(0), ROW_THREADS,
                Kernel.args().ptr(k).ptr(v).ptr(cuQ).ptr(kvStart).ptr(kvLen).ptr(kCache).ptr(vCache)
                        .i64(k.dtype().bytes(k.cols())).i32((int) kvStart.size()).i32(kCache.rows())
                        .ptr(faults.address()));
    }

    @Override
    public void ropeToCache(Stream s, Tensor q, Tensor k, Tensor v, Tensor positions, Tensor table, int headDim,
            Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache, Tensor vCache) {
        if (k.dtype() != DType.BF16) {
            DecoderKernels.super.ropeToCache(s, q, k, v, positions, table, headDim, cuQ, kvStart, kvLen, kCache,
                    vCache);
            return;
        }
        Variants.same("rope", q, k);
        Variants.same("appendToCache", k, v);
        Variants.same("appendToCache", k, kCache);
        Variants.same("appendToCache", k, vCache);
        ropeAppend.launch((CudaStream) s, positions.size(),
                threads(q.dtype().bytes((long) q.cols() + k.cols()), ROW_THREADS),
                Kernel.args().ptr(q).ptr(k).ptr(v).ptr(positions).ptr(table).i32(q.cols() / headDim)
                        .i32(k.cols() / headDim).i32(headDim).i32(table.rows()).ptr(cuQ).ptr(kvStart).ptr(kvLen)
                        .ptr(kCache).ptr(vCache).i32((int) kvStart.size()).i32(kCache.rows()).ptr(faults.address()));
    }

    @Override
    public void swiglu(Stream s, Tensor gate, Tensor up, Tensor out) {
        Variants.same("swiglu", gate, up);
        Variants.same("swiglu", gate, out);
        swiglu.get(gate).launch((CudaStream) s, blocks(gate), ROW_THREADS,
                Kernel.args().ptr(gate).ptr(up).ptr(out).i64(gate.size()));
    }

    @Override
    public void swigluBackward(Stream s, Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp) {
        Variants.same("swigluBackward", gate, dOut);
        Variants.same("swigluBackward", gate, up);
        Variants.same("swigluBackward", gate, dGate);
        Variants.same("swigluBackward", gate, dUp);
        swigluBackward.get(gate).launch((CudaStream) s, blocks(gate), ROW_THREADS,
                Kernel.args().ptr(dOut).ptr(gate).ptr(up).ptr(dGate).ptr(dUp).i64(gate.size()));
    }

    @Override
    public void gatherRows(Stream s, Tensor x, Tensor index, Tensor out) {
        Variants.same("gatherRows", x, out);
        gatherRows.launch((CudaStream) s, index.size(), ROW_THREADS,
                Kernel.args().ptr(x).ptr(index).ptr(out).i64(x.dtype().bytes(x.cols())).i32(x.rows())
                        .ptr(faults.address()));
    }

    @Override
    public void crossEntropy(Stream s, Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            boolean gradient) {
        CudaStream stream = (CudaStream) s;
        boolean wideScale = isDouble("scale", scale);
        boolean wideNll = isDouble("nll", nll);
        int v = logits.cols();
        crossEntropy.get(logits).launch(stream, labels.size(), threads(4L * v, LOGIT_THREADS),
                Kernel.args().ptr(logits).ptr(labels).ptr(scale).ptr(nll).i32(v).flag(wideScale).flag(wideNll)
                        .flag(gradient).ptr(faults.address()));
        crossEntropyLoss.launch(stream, 1, ROW_THREADS, Kernel.args().ptr(scale).ptr(nll).ptr(loss)
                .i32((int) labels.size()).flag(wideScale).flag(wideNll));
    }

    private static boolean isDouble(String name, Tensor t) {
        if (t.dtype() != DType.F32 && t.dtype() != DType.F64) {
            throw new IllegalArgumentException("crossEntropy: " + name + " is " + t + ", must be F32 or F64");
        }
        return t.dtype() == DType.F64;
    }

    @Override
    public void sample(Stream s, SamplingConfig config, Tensor logits, Tensor history, Tensor lengths, Tensor tokens) {
        int v = logits.cols();
        long scores = backend.workspace(DType.F64.bytes(logits.size()));
        sample.get(logits).launch((CudaStream) s, logits.dim(0), LOGIT_THREADS,
                Kernel.args().ptr(logits).ptr(history).ptr(lengths).ptr(tokens).ptr(scores).i32(v)
                        .i32(history.cols()).flag(config.doSample()).f64(config.temperature()).i32(config.topK())
                        .f64(config.topP()).f64(config.repetitionPenalty()).i64(config.seed()).ptr(faults.address()));
    }

    @Override
    public void advance(Stream s, Tensor chosen, Tensor tokens, Tensor positions, Tensor kvLen, Tensor history,
            Tensor lengths) {
        advance.launch((CudaStream) s, Math.ceilDiv(chosen.size(), ROW_THREADS), ROW_THREADS,
                Kernel.args().ptr(chosen).ptr(tokens).ptr(positions).ptr(kvLen).ptr(history).ptr(lengths)
                        .i32((int) chosen.size()).i32(history.cols()));
    }
}
