package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * One module's adapter as it lies in a file.
 *
 * @param a [r, in]
 * @param b [out, r]
 * @param magnitude [out] of DoRA; null without
 */
public record AdapterWeights(Tensor a, Tensor b, Tensor magnitude) {
    /** Plain LoRA. */
    public AdapterWeights(Tensor a, Tensor b) {
        this(a, b, null);
    }
}
