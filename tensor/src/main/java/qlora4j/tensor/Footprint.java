package qlora4j.tensor;

/**
 * What the kernels of a device hold, and how they cut their work, as far as memory depends on it: enough to say what a
 * job will need on a device that is not there. The defaults are a device whose kernels hold nothing of their own.
 */
public interface Footprint {
    /** Kernels of the host, which hold nothing beside the tensors of a step. */
    Footprint HOST = new Footprint() {
        @Override
        public boolean readsBfloat16() {
            return true;
        }

        @Override
        public boolean isOnHost() {
            return true;
        }
    };

    /**
     * A training step, as far as scratch memory depends on it.
     *
     * @param type the compute type
     * @param largestQuantized elements of the largest matrix in 4 bits; 0 where there is none
     * @param rows tokens of the largest micro-batch
     * @param heads query heads
     */
    record Step(DType type, long largestQuantized, long rows, int heads) {
    }

    /**
     * Whether kernels take a bfloat16 embedding or head beside activations of another type as well as one of that type,
     * so that it stays as it is: the same numbers in half the bytes.
     */
    default boolean readsBfloat16() {
        return false;
    }

    /**
     * Rows of logits over {@code vocab} tokens that a loss computes at once: few, but enough for a fast product. The usual
     * number fills tiles of twelve rows, and makes three of 1024 rows.
     */
    default int logitRows(long vocab) {
        return 29 * 12;
    }

    /** Bytes that kernels hold from the first training step on, beside the tensors that the step takes. */
    default long workspaceBytes(Step step) {
        return 0;
    }

    /** Whether its memory is the host's, so that nothing can be moved from it to there. */
    default boolean isOnHost() {
        return false;
    }
}
