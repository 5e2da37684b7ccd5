package qlora4j.blockwise;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The product with a matrix of {@link ExactInt8}, for a few rows of x as in decoding. Backends of the host have it. */
public interface ExactInt8Kernels {
    /**
     * {@code y[m, o] = Σ x[m, i]·W[o, i]}. Error of an element: at most {@code (in + in / 32)·ε·Σ|x·W|}, as that of the
     * product with W in float32 and one more rounding a block.
     *
     * @param x [M, in] F32, BF16 or F16 (F64 on the scalar backend)
     * @param w [out, in]
     * @param y [M, out], overwritten
     */
    void matmul(Stream stream, Tensor x, ExactInt8 w, Tensor y);
}
