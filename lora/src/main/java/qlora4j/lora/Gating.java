package qlora4j.lora;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * SwiGLU (Shazeer 2020), which is between the layers gate and up and the one behind them, as operations of their own: for
 * kernels that do not make it of what their products give.
 */
public interface Gating {
    /** {@code out = silu(gate)·up}; all [N, F]. */
    void forward(Stream s, Tensor gate, Tensor up, Tensor out);

    /** Gate and up become the gradients of theirs. */
    void backward(Stream s, Tensor dOut, Tensor gate, Tensor up);
}
