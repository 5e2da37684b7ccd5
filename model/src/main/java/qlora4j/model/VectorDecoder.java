package qlora4j.model;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/**
 * The kernels of the cpu backend: Vector API and a team of threads, float32 inside, activations in float32, bfloat16 or
 * float16. Work is cut by shapes alone, so no result depends on the number of threads.
 */
final class VectorDecoder implements DecoderKernels {
    private final VectorElementwise elementwise;
    private final VectorEmbeddingNoise embeddingNoise;
    private final VectorNorm norm;
    private final VectorAttention attention;
    private final VectorAttentionBackward attentionBackward;
    private final VectorCrossEntropy crossEntropy;
    private final TokenSampler sampler = new TokenSampler();

    VectorDecoder(Team team) {
        elementwise = new VectorElementwise(team);
        embeddingNoise = new VectorEmbeddingNoise(team);
        norm = new VectorNorm(team);
        attention = new VectorAttention(team);
        attentionBackward = new VectorAttentionBackward(team);
        crossEntropy = new VectorCrossEntropy(team);
    }

    @Override
    public void embedding(Stream s, Tensor tokens, Tensor table, Tensor out) {
        elementwise.embedding(tokens, table, out);
    }

    @Override
    public void embeddingBackward(Stream s, Tensor tokens, Tensor dOut, Tensor dTable) {
        elementwise.embeddingBackward(tokens, dOut, dTable);
    }

    @Override
    public void embeddingNoise(Stream s, EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu, Tensor h) {
        embeddingNoise.add(noise, samples, positions, cu, h);
    }

    @Override
    public void rmsNorm(Stream s, Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd) {
        norm.forward(x, weight, eps, y, rstd);
    }

    @Override
    public void rmsNormBackward(Stream s, Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual, Tensor dx,
            Tensor dWeight) {
        norm.backward(dy, x, weight, rstd, residual, dx, dWeight);
    }

    @Override
    public void rope(Stream s, Tensor q, Tensor k, Tensor positions, Tensor table, int headDim, boolean inverse) {
        elementwise.rope(q, k, positions, table, headDim, inverse);
    }

    @Override
    public void attention(Stream s, AttentionShape shape, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart,
            Tensor kvLen, Tensor out, Tensor lse) {
        attention.forward(shape, q, k, v, cuQ, kvStart, kvLen, out, lse);
    }

    @Override
    public void attentionBackward(Stream s, AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out,
            Tensor lse, Tensor cu, Tensor dq, Tensor dk, Tensor dv) {
        attentionBackward.run(
                new VectorAttentionBackward.Call(shape, dOut, q, k, v, out, lse, cu, dq, dk, dv));
    }

    @Override
    public void appendToCache(Stream s, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache,
            Tensor vCache) {
        elementwise.appendToCache(k, v, cuQ, kvStart, kvLen, kCache, vCache);
    }

    @Override
    public void swiglu(Stream s, Tensor gate, Tensor up, Tensor out) {
        elementwise.swiglu(gate, up, out);
    }

    @Override
    public void swigluBackward(Stream s, Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp) {
        elementwise.swigluBackward(dOut, gate, up, dGate, dUp);
    }

    @Override
    public void gatherRows(Stream s, Tensor x, Tensor index, Tensor out) {
        elementwise.gatherRows(x, index, out);
    }

    @Override
    public void crossEntropy(Stream s, Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            boolean gradient) {
        crossEntropy.run(logits, labels, scale, nll, loss, gradient);
    }

    @Override
    public void sample(Stream s, SamplingConfig config, Tensor logits, Tensor history, Tensor lengths, Tensor tokens) {
        sampler.sample(config, logits, history, lengths, tokens);
    }
}
