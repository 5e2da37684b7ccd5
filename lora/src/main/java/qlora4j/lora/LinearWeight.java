package qlora4j.lora;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The weight {@code W [out, in]} of a linear layer: dense, or held in 4 bits and dequantized as it is used. */
public sealed interface LinearWeight {
    int outFeatures();

    int inFeatures();

    /** Bytes it holds. */
    long bytes();

    /** {@code y = x·Wᵀ}, overwritten. */
    void product(Stream s, Tensor x, Tensor y);

    /** {@code dx = dy·W}, or added to dx. */
    void productBackward(Stream s, Tensor dy, boolean accumulate, Tensor dx);

    /** A dense weight; its gradient is asked for where it is trained. */
    record Dense(Tensor w) implements LinearWeight {
        @Override
        public int outFeatures() {
            return w.rows();
        }

        @Override
        public int inFeatures() {
            return w.cols();
        }

        @Override
        public long bytes() {
            return w.bytes();
        }

        @Override
        public void product(Stream s, Tensor x, Tensor y) {
            Matmul.nt(s, x, w, 1, y, false);
        }

        @Override
        public void productBackward(Stream s, Tensor dy, boolean accumulate, Tensor dx) {
            Matmul.nn(s, dy, w, 1, dx, accumulate);
        }
    }

    /** A frozen 4-bit weight: it has no gradient. */
    record Quantized(QuantizedTensor w) implements LinearWeight {
        @Override
        public int outFeatures() {
            return w.outFeatures();
        }

        @Override
        public int inFeatures() {
            return w.inFeatures();
        }

        @Override
        public long bytes() {
            return w.bytes();
        }

        @Override
        public void product(Stream s, Tensor x, Tensor y) {
            Blockwise.matmul(s, x, w, y);
        }

        @Override
        public void productBackward(Stream s, Tensor dy, boolean accumulate, Tensor dx) {
            Blockwise.matmulBackward(s, dy, w, accumulate, dx);
        }
    }
}
