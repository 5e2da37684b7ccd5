package qlora4j.blockwise;

import java.util.Arrays;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * A tensor held in 4 bits. It runs over the flattened row-major elements; blocks may cross rows. With {@code n}
 * elements, {@code b = ceil(n / blocksize)} blocks and {@code c = ceil(b / 256)} second-level blocks:
 *
 * <pre>
 *   packed   U8 [ceil(n / 2)]   two codes a byte, the first element in the high nibble
 *   absmax   F32 [b]            plain: the blocks' largest magnitudes
 *            U8 [b]             nested: codes of (absmax - offset) in the signed dynamic map
 *   absmax2  F32 [c]            nested only: the second level's largest magnitudes
 *   offset   F32 [1]            nested only: the mean of all absmax
 *
 *   scale[j]  = absmax[j]                                                     plain
 *             = map[absmax[j]] * absmax2[j / 256] + offset, each rounded      nested
 *   weight[i] = codebook[code[i]] * scale[i / blocksize]                      rounded to float32
 * </pre>
 *
 * @param config how it is held
 * @param dtype the element type it had before
 * @param shape its shape
 */
public record QuantizedTensor(QuantConfig config, DType dtype, long[] shape, Tensor packed, Tensor absmax,
        Tensor absmax2, Tensor offset) {

    public QuantizedTensor {
        shape = shape.clone();
        long n = Tensor.elements(shape);
        if (!dtype.isFloat()) {
            throw new IllegalArgumentException("a quantized tensor of " + dtype + ": expected a floating-point type");
        }
        check("packed", packed, DType.U8, Nibbles.bytes(n));
        check("absmax", absmax, config.nested() ? DType.U8 : DType.F32, config.blocks(n));
        if (config.nested()) {
            check("absmax2", absmax2, DType.F32, config.nestedBlocks(n));
            check("offset", offset, DType.F32, 1);
        } else if (absmax2 != null || offset != null) {
            throw new IllegalArgumentException("absmax2 and offset belong to double quantization; config is " + config);
        }
    }

    private static void check(String what, Tensor t, DType dtype, long size) {
        if (t == null || t.dtype() != dtype || t.size() != size) {
            throw new IllegalArgumentException(what + " is " + t + ", expected " + dtype + " with " + size
                    + " elements");
        }
    }

    /** Allocates a tensor with undefined values, which lives as long as {@code backend}. */
    public static QuantizedTensor allocate(Backend backend, QuantConfig config, DType dtype, long... shape) {
        long n = Tensor.elements(shape);
        Tensor packed = backend.allocate(MemoryUse.WEIGHTS, DType.U8, Nibbles.bytes(n));
        if (!config.nested()) {
            Tensor absmax = backend.allocate(MemoryUse.CONSTANTS, DType.F32, config.blocks(n));
            return new QuantizedTensor(config, dtype, shape, packed, absmax, null, null);
        }
        return new QuantizedTensor(config, dtype, shape, packed,
                backend.allocate(MemoryUse.CONSTANTS, DType.U8, config.blocks(n)),
                backend.allocate(MemoryUse.CONSTANTS, DType.F32, config.nestedBlocks(n)),
                backend.allocate(MemoryUse.CONSTANTS, DType.F32, 1));
    }

    /** A copy in memory of {@code backend}, from host memory; it lives as long as the backend. */
    public QuantizedTensor copyTo(Backend backend) {
        QuantizedTensor copy = allocate(backend, config, dtype, shape);
        backend.upload(packed, copy.packed);
        backend.upload(absmax, copy.absmax);
        if (config.nested()) {
            backend.upload(absmax2, copy.absmax2);
            backend.upload(offset, copy.offset);
        }
        return copy;
    }

    /** A copy in host memory that the garbage collector frees, from memory of {@code backend}. */
    public QuantizedTensor toHost(Backend backend) {
        return new QuantizedTensor(config, dtype, shape, toHost(backend, packed), toHost(backend, absmax),
                toHost(backend, absmax2), toHost(backend, offset));
    }

    private static Tensor toHost(Backend backend, Tensor t) {
        if (t == null) {
            return null;
        }
        Tensor host = Tensor.zeros(t.dtype(), t.shape());
        backend.download(t, host);
        return host;
    }

    /** A copy of the dimensions. */
    @Override
    public long[] shape() {
        return shape.clone();
    }

    /** The number of elements. */
    public long size() {
        return Tensor.elements(shape);
    }

    /** Rows of a matrix {@code [out, in]}: its output features. */
    public int outFeatures() {
        return Math.toIntExact(matrix()[0]);
    }

    /** Columns of a matrix {@code [out, in]}: its input features. */
    public int inFeatures() {
        return Math.toIntExact(matrix()[1]);
    }

    private long[] matrix() {
        if (shape.length != 2) {
            throw new IllegalStateException(this + " is not a matrix");
        }
        return shape;
    }

    /** Bytes of codes and constants. */
    public long bytes() {
        return packed.bytes() + absmax.bytes() + (config.nested() ? absmax2.bytes() + offset.bytes() : 0);
    }

    /**
     * Bits an element, constants included. For blocks of 64 with double quantization nearly
     * {@code 4 + 8/64 + 32/(64*256) = 4.127}.
     */
    public double bitsPerParameter() {
        return 8.0 * bytes() / size();
    }

    @Override
    public String toString() {
        return config.type() + Arrays.toString(shape) + " (blocks of " + config.blocksize()
                + (config.nested() ? ", double quantization" : "") + ", was " + dtype + ")";
    }
}
