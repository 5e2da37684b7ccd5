package qlora4j.blockwise;

import java.util.Set;
import qlora4j.tensor.Aliasing;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Block-wise quantization: the operations that other modules call. Shapes, types, devices and aliasing are checked
 * here, once; the work is done by the stream's {@link BlockwiseKernels}.
 */
public final class Blockwise {
    private static final Set<DType> COMPUTE = Set.of(DType.F64, DType.F32, DType.BF16, DType.F16);

    private Blockwise() {
    }

    /**
     * Quantizes a tensor into memory of the stream's backend, which lives as long as the backend.
     *
     * @param x F64, F32, BF16 or F16 of any shape, on the stream's device
     */
    public static QuantizedTensor quantize(Stream stream, Tensor x, QuantConfig config) {
        QuantizedTensor w = QuantizedTensor.allocate(stream.backend(), config, x.dtype(), x.shape());
        quantize(stream, x, w);
        return w;
    }

    /**
     * Quantizes a tensor into existing memory. With double quantization the plain constants are an intermediate tensor
     * of the stream.
     *
     * @param x F64, F32, BF16 or F16, the shape of {@code w}
     * @param w overwritten
     */
    public static void quantize(Stream stream, Tensor x, QuantizedTensor w) {
        checkCompute("x", x);
        checkDevice(stream, x);
        checkDevice(stream, w);
        if (!x.hasShape(w.shape())) {
            throw new IllegalArgumentException("quantize " + x + " into " + w + ": the shapes differ");
        }
        Aliasing.checkDisjoint("quantize", w.packed(), x);
        Aliasing.checkDisjoint("quantize", w.absmax(), x);
        BlockwiseKernels kernels = stream.kernels(BlockwiseKernels.class);
        QuantConfig c = w.config();
        if (!c.nested()) {
            kernels.quantize4(stream, x, c.type(), c.blocksize(), w.packed(), w.absmax());
            return;
        }
        Tensor absmax = stream.take(DType.F32, w.absmax().size());
        kernels.quantize4(stream, x, c.type(), c.blocksize(), w.packed(), absmax);
        kernels.mean(stream, absmax, w.offset());
        kernels.quantize8(stream, absmax, w.offset(), DynamicMap.SIGNED, QuantConfig.NESTED_BLOCKSIZE, w.absmax(),
                w.absmax2());
        stream.release(absmax);
    }

    /**
     * Dequantizes a tensor.
     *
     * @param out F64, F32, BF16 or F16 with as many elements as {@code w}, overwritten
     */
    public static void dequantize(Stream stream, QuantizedTensor w, Tensor out) {
        checkCompute("out", out);
        checkDevice(stream, w);
        checkDevice(stream, out);
        checkSize("out", out, w.size());
        Aliasing.checkDisjoint("dequantize", out, w.packed(), w.absmax(), w.absmax2(), w.offset());
        stream.kernels(BlockwiseKernels.class).dequantize4(stream, w, out);
    }

    /**
     * Writes the constants of all blocks, after both levels where they are nested.
     *
     * @param scales F32 with an element per block, overwritten
     */
    public static void scales(Stream stream, QuantizedTensor w, Tensor scales) {
        checkDevice(stream, w);
        checkDevice(stream, scales);
        checkType("scales", scales, DType.F32);
        checkSize("scales", scales, w.absmax().size());
        Aliasing.checkDisjoint("scales", scales, w.absmax(), w.absmax2(), w.offset());
        if (w.config().nested()) {
            stream.kernels(BlockwiseKernels.class).dequantize8(stream, w.absmax(), w.absmax2(), w.offset(),
                    DynamicMap.SIGNED, QuantConfig.NESTED_BLOCKSIZE, scales);
        } else if (!stream.isPlan()) {
            stream.backend().upload(w.absmax(), scales);
        }
    }

    /**
     * Quantizes {@code x - offset} to 8 bits.
     *
     * @param x F64, F32, BF16 or F16 {@code [n]} (any shape)
     * @param offset F32 {@code [1]}, or null for none
     * @param blocksize a power of two, 32 to 4096
     * @param codes U8 {@code [n]}, overwritten
     * @param absmax F32 {@code [ceil(n / blocksize)]}, overwritten
     */
    public static void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes,
            Tensor absmax) {
        checkCompute("x", x);
        check8(stream, codes, absmax, offset, blocksize, x);
        Aliasing.checkDisjoint("quantize8", codes, x, offset);
        Aliasing.checkDisjoint("quantize8", absmax, x, offset);
        stream.kernels(BlockwiseKernels.class).quantize8(stream, x, offset, map, blocksize, codes, absmax);
    }

    /**
     * Dequantizes 8-bit codes and adds an offset.
     *
     * @param codes U8 {@code [n]} (any shape)
     * @param absmax F32 {@code [ceil(n / blocksize)]}
     * @param offset F32 {@code [1]}, or null for none
     * @param blocksize a power of two, 32 to 4096
     * @param out F64, F32, BF16 or F16 {@code [n]}, overwritten
     */
    public static void dequantize8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, DynamicMap map,
            int blocksize, Tensor out) {
        checkCompute("out", out);
        check8(stream, codes, absmax, offset, blocksize, out);
        Aliasing.checkDisjoint("dequantize8", out, codes, absmax, offset);
        stream.kernels(BlockwiseKernels.class).dequantize8(stream, codes, absmax, offset, map, blocksize, out);
    }

    private static void check8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, int blocksize, Tensor x) {
        QuantConfig.checkBlocksize(blocksize);
        checkType("codes", codes, DType.U8);
        checkType("absmax", absmax, DType.F32);
        checkSize("codes", codes, x.size());
        checkSize("absmax", absmax, QuantConfig.blocks(x.size(), blocksize));
        if (offset != null) {
            checkType("offset", offset, DType.F32);
            checkSize("offset", offset, 1);
            checkDevice(stream, offset);
        }
        checkDevice(stream, codes);
        checkDevice(stream, absmax);
        checkDevice(stream, x);
    }

    /**
     * The product of a linear layer, {@code y = x · dequant(W)ᵀ}, with W rounded to the type of {@code x}.
     *
     * @param x F64 (scalar backend only), F32, BF16 or F16 {@code [..., in]}
     * @param w {@code [out, in]}
     * @param y {@code [..., out]}, the type of {@code x}, overwritten
     */
    public static void matmul(Stream stream, Tensor x, QuantizedTensor w, Tensor y) {
        checkForward(stream, x, w, y);
        stream.kernels(BlockwiseKernels.class).matmul(stream, x, w, y);
    }

    /** {@link #matmul} of several matrices with one x, such as q, k and v of a layer, in one operation. */
    public static void matmul(Stream stream, Tensor x, QuantizedTensor[] w, Tensor[] y) {
        for (int i = 0; i < w.length; i++) {
            checkForward(stream, x, w[i], y[i]);
        }
        stream.kernels(BlockwiseKernels.class).matmul(stream, x, w, y);
    }

    private static void checkForward(Stream stream, Tensor x, QuantizedTensor w, Tensor y) {
        checkProduct(stream, "x", x, "y", y, w);
        checkColumns("x", x, w.inFeatures(), w);
        checkColumns("y", y, w.outFeatures(), w);
    }

    /**
     * Its gradient, {@code dx = dy · dequant(W)} or {@code dx += dy · dequant(W)}, with W rounded to the type of
     * {@code dy}.
     *
     * @param dy F64 (scalar backend only), F32, BF16 or F16 {@code [..., out]}
     * @param w {@code [out, in]}
     * @param accumulate whether the product is added to {@code dx}
     * @param dx {@code [..., in]}, the type of {@code dy}
     */
    public static void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx) {
        checkProduct(stream, "dy", dy, "dx", dx, w);
        checkColumns("dy", dy, w.outFeatures(), w);
        checkColumns("dx", dx, w.inFeatures(), w);
        stream.kernels(BlockwiseKernels.class).matmulBackward(stream, dy, w, accumulate, dx);
    }

    private static void checkProduct(Stream stream, String inName, Tensor in, String outName, Tensor out,
            QuantizedTensor w) {
        checkCompute(inName, in);
        checkType(outName, out, in.dtype());
        checkDevice(stream, in);
        checkDevice(stream, out);
        checkDevice(stream, w);
        if (in.rank() == 0 || out.rank() == 0 || in.rows() != out.rows()) {
            throw new IllegalArgumentException(inName + " is " + in + " and " + outName + " is " + out
                    + ": expected as many rows");
        }
        Aliasing.checkDisjoint("product with a quantized matrix", out, in, w.packed(), w.absmax(), w.absmax2(),
                w.offset());
    }

    private static void checkColumns(String what, Tensor t, int features, QuantizedTensor w) {
        if (t.cols() != features) {
            throw new IllegalArgumentException(what + " is " + t + ", expected " + features + " columns for " + w);
        }
    }

    private static void checkCompute(String what, Tensor t) {
        if (!COMPUTE.contains(t.dtype())) {
            throw new IllegalArgumentException(what + " is " + t + ", expected F64, F32, BF16 or F16");
        }
    }

    private static void checkType(String what, Tensor t, DType dtype) {
        if (t.dtype() != dtype) {
            throw new IllegalArgumentException(what + " is " + t + ", expected " + dtype);
        }
    }

    private static void checkSize(String what, Tensor t, long size) {
        if (t.size() != size) {
            throw new IllegalArgumentException(what + " is " + t + ", expected " + size + " elements");
        }
    }

    private static void checkDevice(Stream stream, QuantizedTensor w) {
        checkDevice(stream, w.packed());
        checkDevice(stream, w.absmax());
    }

    private static void checkDevice(Stream stream, Tensor t) {
        if (!t.device().equals(stream.device()) && !stream.isPlan()) {
            throw new IllegalArgumentException(t + " is not on the stream's device " + stream.device());
        }
    }
}
