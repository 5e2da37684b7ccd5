package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * One adapter of one linear layer (Hu et al. 2021, section 4.1): {@code y += scale·x·Aᵀ·Bᵀ}.
 *
 * @param a [r, in]
 * @param b [out, r]
 * @param scale alpha / r, or alpha / √r
 * @param dA gradient of a, accumulated; null when the adapter is not trained
 * @param dB gradient of b, accumulated; null when the adapter is not trained
 * @param dora magnitudes and norms of DoRA; null for plain LoRA
 */
public record LoraPair(Tensor a, Tensor b, double scale, Tensor dA, Tensor dB, Dora dora) {
    public LoraPair {
        if (a.rows() != b.cols()) {
            throw new IllegalArgumentException("LoRA: A " + a + " and B " + b + " have different ranks");
        }
    }

    /** A plain pair that is trained. */
    public LoraPair(Tensor a, Tensor b, double scale, Tensor dA, Tensor dB) {
        this(a, b, scale, dA, dB, null);
    }

    /** A plain pair that is only run. */
    public LoraPair(Tensor a, Tensor b, double scale) {
        this(a, b, scale, null, null, null);
    }

    public int rank() {
        return a.rows();
    }

    public boolean trained() {
        return dA != null;
    }
}
