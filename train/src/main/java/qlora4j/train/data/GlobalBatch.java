package qlora4j.train.data;

import java.util.List;

/**
 * All that one optimizer step reads. The loss is the sum over the labels of all micro-batches divided by
 * {@link #labelTokens}, and so does not depend on how they are split.
 *
 * @param step         the step, from 0
 * @param epoch        the pass over the data that it belongs to, from 0
 * @param rows         the index in the data of each sample
 * @param microBatches the samples in their order, as many sequences to a micro-batch as the device takes, fewer in the
 *                     last
 */
public record GlobalBatch(int step, int epoch, List<Integer> rows, List<Batch> microBatches) {
    public GlobalBatch {
        rows = List.copyOf(rows);
        microBatches = List.copyOf(microBatches);
    }

    /** How many tokens are predicted. */
    public int labelTokens() {
        return microBatches.stream().mapToInt(Batch::labelTokens).sum();
    }

    /** How many tokens are read. */
    public int tokens() {
        return microBatches.stream().mapToInt(batch -> batch.tokens().length).sum();
    }
}
