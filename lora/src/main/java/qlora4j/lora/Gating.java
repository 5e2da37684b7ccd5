package qlora4j.lora;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * SwiGLU (Shazeer 2020), which is between the layers gate and up and the one behind them, as operations of their own: for
 * kernels that do not make it of what their products give.
 */
public interface Gating {
    /** Elements of a task where threads of the cpu backend share the work. */
    int PIECE = 4096;

    /** {@code out = silu(gate)·up}; all [N, F]. */
    void forward(Stream s, Tensor gate, Tensor up, Tensor out);

    /** Gate and up become the gradients of theirs. */
    void backward(Stream s, Tensor dOut, Tensor gate, Tensor up);

    /**
     * A piece of {@link #forward(Stream, Tensor, Tensor, Tensor)} on float32 tensors of the cpu backend: elements {@code from
     * .. from + n} to {@code out[at …]}.
     */
    void forward(Tensor gate, Tensor up, long from, int n, float[] out, int at);

    /**
     * A piece of {@link #backward(Stream, Tensor, Tensor, Tensor)}, likewise; dOut becomes {@code silu(gate)·up}, as it was
     * forward.
     *
     * @param scratch of at least {@code n} elements, overwritten
     */
    void backward(Tensor dOut, Tensor gate, Tensor up, long from, int n, float[] scratch);
}
