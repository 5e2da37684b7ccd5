package qlora4j.blockwise;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Block-wise quantization and products with 4-bit matrices. {@link Blockwise} checks arguments; kernels trust them.
 * Element-wise operations are bit-identical on every backend (the sign and payload of a NaN excepted); semantics of
 * NaN, infinities, zero and tiny blocks are those of {@link qlora4j.nf4.Absmax}.
 */
public interface BlockwiseKernels {
    /**
     * Quantizes to 4 bits with plain constants.
     *
     * @param x {@code n} elements of F64, F32, BF16 or F16, narrowed to float32 first
     * @param packed U8 {@code [ceil(n / 2)]}, overwritten
     * @param absmax F32 {@code [ceil(n / blocksize)]}, overwritten
     */
    void quantize4(Stream stream, Tensor x, QuantType type, int blocksize, Tensor packed, Tensor absmax);

    /**
     * Dequantizes: {@code out[i] = codebook[code[i]] * scale[i / blocksize]}, rounded to float32, then to the type of
     * {@code out}.
     *
     * @param out as many elements of F64, F32, BF16 or F16, overwritten
     */
    void dequantize4(Stream stream, QuantizedTensor w, Tensor out);

    /**
     * The mean of constants: a double sum over chunks of 256 in index order, then over the chunk sums in order, divided
     * and rounded to float32 once. 0 when there are none.
     *
     * @param absmax F32 {@code [b]}
     * @param mean F32 {@code [1]}, overwritten
     */
    void mean(Stream stream, Tensor absmax, Tensor mean);

    /**
     * Quantizes {@code x - offset} to 8 bits.
     *
     * @param x {@code n} elements of F64, F32, BF16 or F16, narrowed to float32 first
     * @param offset F32 {@code [1]}, subtracted in float32; or null
     * @param codes U8 {@code [n]}, overwritten
     * @param absmax F32 {@code [ceil(n / blocksize)]}, overwritten
     */
    void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes, Tensor absmax);

    /**
     * Dequantizes: {@code out[i] = map[codes[i]] * absmax[i / blocksize] + offset}, each operation rounded to float32,
     * then to the type of {@code out}.
     *
     * @param offset F32 {@code [1]}; or null for none
     * @param out F64, F32, BF16 or F16 {@code [n]}, overwritten
     */
    void dequantize8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, DynamicMap map, int blocksize,
            Tensor out);

    /**
     * The product of a linear layer, {@code y[m, o] = sum over i of x[m, i] * W[o, i]}, with W dequantized and rounded
     * to the type of {@code x}. Error of an element: at most {@code in * eps32 * sum |x * W|} before rounding to the
     * type of {@code y}. Where a block's constant is not finite, y is not finite either; whether it is an infinity or
     * a NaN depends on the order of the operations.
     *
     * @param x {@code [M, in]} (leading dimensions are flattened)
     * @param w {@code [out, in]}
     * @param y {@code [M, out]}, the type of {@code x}, overwritten
     */
    void matmul(Stream stream, Tensor x, QuantizedTensor w, Tensor y);

    /**
     * {@link #matmul} of several matrices with one x; where x has few rows, together they cost less than one by one. Each
     * result is the same, bit for bit.
     *
     * @param y of each matrix, [M, out], overwritten
     */
    default void matmul(Stream stream, Tensor x, QuantizedTensor[] w, Tensor[] y) {
        for (int i = 0; i < w.length; i++) {
            matmul(stream, x, w[i], y[i]);
        }
    }

    /**
     * Its gradient, {@code dx[m, i] = sum over o of dy[m, o] * W[o, i]}, with W dequantized and rounded to the type of
     * {@code dy}. W is frozen and gets none. Error of an element: at most {@code out * eps32 * sum |dy * W|} before
     * rounding to the type of {@code dx}.
     *
     * @param dy {@code [M, out]}
     * @param w {@code [out, in]}
     * @param accumulate whether the product is added to {@code dx} or overwrites it
     * @param dx {@code [M, in]}, the type of {@code dy}
     */
    void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx);
}
