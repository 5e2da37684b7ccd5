package qlora4j.model;

import qlora4j.lora.Dropout;
import qlora4j.tensor.Tensor;

/**
 * Uniform noise on the embeddings in training (Jain et al. 2023, "NEFTune: Noisy Embeddings Improve Instruction
 * Finetuning", algorithm 1): element {@code (i, j)} of a sequence of L tokens of C features gets
 * {@code u·alpha/√(L·C)} added, u uniform in [-1, 1). L is the sequence's own length; there is no padding.
 *
 * <p>u is {@code 2·unit - 1} of word {@code j % 4} of Philox4x32-10 under the key {@code seed} at the counter
 * {@code (j / 4 + }{@link #MODULE}{@code ·2¹⁶, position, sample, step)}, as in {@link Dropout}: the same on every backend,
 * for every split of a batch and when packed. The factor is rounded to float32, and so are product and sum.
 *
 * @param alpha how much; more than 0
 * @param seed the run's
 * @param step I32 [1], on the device
 */
public record EmbeddingNoise(double alpha, long seed, Tensor step) {
    /** A module's number that no linear layer has. */
    public static final int MODULE = Dropout.MAX_MODULES - 1;

    public EmbeddingNoise {
        if (!(alpha > 0) || Double.isInfinite(alpha)) {
            throw new IllegalArgumentException("--neftune-noise-alpha " + alpha + ": must be a positive number");
        }
    }

    /** The largest magnitude in a sequence of {@code length} tokens of {@code features}. */
    public float magnitude(int length, int features) {
        return (float) (alpha / Math.sqrt((double) length * features));
    }
}
