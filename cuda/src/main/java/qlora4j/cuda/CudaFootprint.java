package qlora4j.cuda;

import qlora4j.tensor.DType;
import qlora4j.tensor.Footprint;

/** What kernels on a GPU hold in a training step; also the answer of {@code plan} where there is no GPU. */
final class CudaFootprint implements Footprint {
    static final CudaFootprint INSTANCE = new CudaFootprint();
    /** Logits that a loss holds at once: at 32,000 tokens 1,024 rows, enough to keep the GPU's product busy. */
    private static final long LOGIT_BYTES = 128L << 20;
    /** Statistics of the attention's backward for each row and head. */
    private static final int ATTENTION_BYTES = 8;

    private CudaFootprint() {
    }

    /** About {@link #LOGIT_BYTES} of them. */
    @Override
    public int logitRows(long vocab) {
        long rows = LOGIT_BYTES / (Float.BYTES * vocab) / 128 * 128;
        return Math.clamp(rows, 128, 4096);
    }

    /**
     * cuBLAS' workspace, and the shared one, which is as large as the largest operation wants it: a product's parts, and
     * rounded operands or a dequantized matrix, in bfloat16 two.
     */
    @Override
    public long workspaceBytes(Step step) {
        long product = step.type() == DType.BF16 ? RoundedAdapters.workspaceBytes(step.largestQuantized())
                : CudaBlockwise.workspaceBytes(step.type(), step.largestQuantized());
        return Cublas.WORKSPACE_BYTES + Math.max(product, ATTENTION_BYTES * step.rows() * step.heads());
    }
}
