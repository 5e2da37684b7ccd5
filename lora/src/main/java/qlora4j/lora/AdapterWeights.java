package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * One module's adapter as it lies in a file.
 *
 * @param a [r, in]
 * @param b [out, r]
 */
public record AdapterWeights(Tensor a, Tensor b) {
}
