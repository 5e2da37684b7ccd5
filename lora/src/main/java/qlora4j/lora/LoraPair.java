package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * One adapter of one linear layer (Hu et al. 2021, section 4.1): {@code y += scale·x·Aᵀ·Bᵀ}.
 *
 * @param a [r, in]
 * @param b [out, r]
 * @param scale alpha / r
 * @param dA gradient of a, accumulated; null when the adapter is not trained
 * @param dB gradient of b, accumulated; null when the adapter is not trained
 */
public record LoraPair(Tensor a, Tensor b, double scale, Tensor dA, Tensor dB) {
    public LoraPair {
        if (a.rows() != b.cols()) {
            throw new IllegalArgumentException("LoRA: A " + a + " and B " + b + " have different ranks");
        }
    }

    /** A pair that is only run. */
    public LoraPair(Tensor a, Tensor b, double scale) {
        this(a, b, scale, null, null);
    }

    public int rank() {
        return a.rows();
    }

    public boolean trained() {
        return dA != null;
    }
}
