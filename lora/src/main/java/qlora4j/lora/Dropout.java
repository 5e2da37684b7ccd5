package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * Inverted dropout on the input of an adapter (Srivastava et al. 2014; PEFT's {@code lora_dropout}). Whether an element
 * is kept is a pure function of seed, step, sample in the global batch, position, feature and module, so masks are the
 * same on every backend, under recomputation and for every split of a batch: word {@code feature % 4} of Philox4x32-10
 * under the key {@code seed} at the counter {@code (feature / 4 + module·2¹⁶, position, sample, step)}, kept when
 * {@link qlora4j.tensor.Philox#unit} of it is at least p.
 *
 * @param p probability of dropping, in [0, 1)
 * @param seed the run's
 * @param step I32 [1], on the device so that a captured step can be replayed
 * @param sample I32 [N] each row's sample in the global batch
 * @param position I32 [N] each row's position in its sample
 */
public record Dropout(double p, long seed, Tensor step, Tensor sample, Tensor position) {
    /** Features a layer may have: feature / 4 must fit 16 bits. */
    public static final int MAX_FEATURES = 4 << 16;
    /** Modules a model may have. */
    public static final int MAX_MODULES = 1 << 16;

    public Dropout {
        if (!(p >= 0 && p < 1)) {
            throw new IllegalArgumentException("--lora-dropout " + p + ": must be at least 0 and below 1");
        }
    }

    /** What kept elements are multiplied with. */
    public float scale() {
        return (float) (1 / (1 - p));
    }

    /** The first counter word of feature group {@code group} of {@code module}. */
    public static int counter(int group, int module) {
        return group | module << 16;
    }
}
