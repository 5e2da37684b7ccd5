package qlora4j.model;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The operations of a Llama-family decoder other than its linear layers. Called through {@link DecoderOps}, which
 * checks; kernels trust it. N rows are the tokens of all sequences of a batch one after another; sequence s has rows
 * {@code cu[s]} to {@code cu[s + 1]}. Activations are of the compute type (float32, bfloat16; float64 on the scalar
 * backend), sums are float32 at least. Gradients are overwritten unless a method says accumulated.
 */
public interface DecoderKernels {
    /** {@code out[i] = table[tokens[i]]}: tokens I32 [N], table [V, C], out [N, C]. */
    void embedding(Stream s, Tensor tokens, Tensor table, Tensor out);

    /** {@code dTable[tokens[i]] += dOut[i]}, accumulated in the order of rows. */
    void embeddingBackward(Stream s, Tensor tokens, Tensor dOut, Tensor dTable);

    /**
     * Adds {@link EmbeddingNoise} to the rows of sequences, in place; its gradient is that of what it is added to.
     *
     * @param samples I32 [N] each row's sample in the global batch
     * @param positions I32 [N]
     * @param cu I32 [S + 1]
     * @param h [N, C]
     */
    void embeddingNoise(Stream s, EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu, Tensor h);

    /**
     * {@code y = x·rstd·weight, rstd = 1/√(mean(x²) + eps)} (Zhang and Sennrich 2019; transformers' LlamaRMSNorm,
     * which rounds {@code x·rstd} to the compute type before it multiplies).
     *
     * @param x [N, C]
     * @param weight [C]
     * @param y [N, C]
     * @param rstd [N] F32 (F64 when x is), saved for the backward
     */
    void rmsNorm(Stream s, Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd);

    /**
     * {@code g = dy·weight; dx = residual + rstd·(g - x·rstd²·mean(g·x))}, and {@code dWeight += Σ dy·x·rstd}.
     *
     * @param residual [N, C] the gradient that reaches x by the residual path, or null; may be dx itself
     * @param dWeight [C], accumulated; null where the weight is frozen
     */
    void rmsNormBackward(Stream s, Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual, Tensor dx,
            Tensor dWeight);

    /**
     * Rotates pairs (j, j + D/2) of every head of q and k in place by the angle of the row's position (Su et al. 2021,
     * in the half-split layout of Hugging Face checkpoints).
     *
     * @param q [N, heads·D]
     * @param k [N, kvHeads·D]
     * @param positions I32 [N]
     * @param table [P, D]: per position D/2 cosines, then D/2 sines; F32 (F64 when q is)
     * @param inverse rotate back: the backward of the rotation
     */
    void rope(Stream s, Tensor q, Tensor k, Tensor positions, Tensor table, int headDim, boolean inverse);

    /**
     * Causal attention over sequences by cumulative lengths: query row i of sequence s stands at position
     * {@code kvLen[s] - qLen + i} and sees the keys up to its position, the last {@code window} of them when there is
     * one. {@code out = softmax(q·kᵀ/√D)·v} (online softmax as in FlashAttention, Dao et al. 2022).
     *
     * @param q [N, heads·D]
     * @param k [M, kvHeads·D] rows {@code kvStart[s] … + kvLen[s]} are sequence s's keys
     * @param v like k
     * @param cuQ I32 [S + 1]
     * @param kvStart I32 [S]
     * @param kvLen I32 [S]
     * @param out [N, heads·D]
     * @param lse [N, heads] log-sum-exp of the scaled scores, F32 (F64 when q is), saved for the backward
     */
    void attention(Stream s, AttentionShape shape, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart,
            Tensor kvLen, Tensor out, Tensor lse);

    /**
     * Its gradient, where keys and queries are the same rows ({@code kvStart = cuQ}, {@code kvLen} the sequence's
     * length): with {@code P = exp(q·kᵀ/√D - lse)}, {@code dP = dOut·vᵀ},
     * {@code dS = P·(dP - Σ dOut·out)/√D}: {@code dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·dOut}.
     */
    void attentionBackward(Stream s, AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out,
            Tensor lse, Tensor cu, Tensor dq, Tensor dk, Tensor dv);

    /**
     * Writes new keys and values behind those of each sequence in the cache: row i of sequence s goes to cache row
     * {@code kvStart[s] + kvLen[s] - qLen + i} (kvLen counts the new rows already).
     */
    void appendToCache(Stream s, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache,
            Tensor vCache);

    /** {@link #rope}, not inverse, and then {@link #appendToCache} of the rotated keys; their arguments. */
    default void ropeToCache(Stream s, Tensor q, Tensor k, Tensor v, Tensor positions, Tensor table, int headDim,
            Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache, Tensor vCache) {
        rope(s, q, k, positions, table, headDim, false);
        appendToCache(s, k, v, cuQ, kvStart, kvLen, kCache, vCache);
    }

    /** {@code out = silu(gate)·up, silu(x) = x/(1 + e⁻ˣ)} (Shazeer 2020); all [N, F]. */
    void swiglu(Stream s, Tensor gate, Tensor up, Tensor out);

    /** {@code dGate = dOut·up·σ(gate)·(1 + gate·(1 - σ(gate))), dUp = dOut·silu(gate)}; dGate, dUp may be gate, up. */
    void swigluBackward(Stream s, Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp);

    /** Copies chosen rows: {@code out[i] = x[index[i]]}; index I32 [K], x [N, C], out [K, C]. */
    void gatherRows(Stream s, Tensor x, Tensor index, Tensor out);

    /**
     * Cross-entropy of rows of logits and, in place, its gradient:
     * {@code nll[i] = logsumexp(logits[i]) - logits[i][label]}, {@code loss += scale·Σ nll[i]}, and
     * {@code logits[i] = scale·(softmax(logits[i]) - onehot(label))} when {@code gradient}. Rows whose label is -100
     * have nll 0 and gradient 0.
     *
     * @param logits [K, V] F32 (F64 when the model is), overwritten by the gradient
     * @param labels I32 [K]
     * @param scale [1] F32 or F64: one over the number of label tokens of the whole step
     * @param nll [K] F32 or F64
     * @param loss F64 [1], accumulated in the order of rows
     */
    void crossEntropy(Stream s, Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss, boolean gradient);

    /**
     * Chooses the next token of each row, as transformers does: repetition penalty over the tokens so far (Keskar et
     * al. 2019), then temperature, top-k, top-p (Holtzman et al. 2019), then a draw by Philox under the seed, the row
     * and the row's length; or the largest logit (the first among equals) when not sampling.
     *
     * @param logits [B, V], not changed
     * @param history I32 [B, capacity] all tokens of the row so far
     * @param lengths I32 [B] how many there are
     * @param tokens I32 [B] the chosen ones
     */
    void sample(Stream s, SamplingConfig config, Tensor logits, Tensor history, Tensor lengths, Tensor tokens);

    /**
     * What a step of decoding reads becomes that of the next one, by the token that was chosen of each sequence:
     * {@code tokens = chosen, positions = kvLen, kvLen += 1}, and chosen goes behind its sequence's history:
     * {@code history[s, lengths[s]] = chosen[s], lengths[s] += 1}; where there is no room it is left out.
     *
     * @param chosen I32 [S]
     * @param tokens I32 [S], overwritten
     * @param positions I32 [S], overwritten
     * @param kvLen I32 [S]
     * @param history I32 [S, room]
     * @param lengths I32 [S]
     */
    default void advance(Stream s, Tensor chosen, Tensor tokens, Tensor positions, Tensor kvLen, Tensor history,
            Tensor lengths) {
        for (long i = 0; i < chosen.size(); i++) {
            tokens.set(i, chosen.get(i));
            positions.set(i, kvLen.get(i));
            kvLen.set(i, kvLen.get(i) + 1);
            long length = (long) lengths.get(i);
            if (length < history.cols()) {
                history.set(i * history.cols() + length, chosen.get(i));
            }
            lengths.set(i, length + 1);
        }
    }
}
