package qlora4j.safetensors;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.Objects;
import qlora4j.tensor.DType;

/**
 * Where a tensor lies and what it is.
 *
 * @param name its name
 * @param dtype its element type
 * @param shape its dimensions; empty for a scalar
 * @param file the file that holds it
 * @param offset its first byte, counted from the start of the file
 * @param bytes its length
 */
public record TensorInfo(String name, DType dtype, long[] shape, Path file, long offset, long bytes) {
    public TensorInfo {
        shape = shape.clone();
    }

    /** A copy of the dimensions. */
    @Override
    public long[] shape() {
        return shape.clone();
    }

    /** The number of elements: 1 for a scalar. */
    public long elements() {
        long n = 1;
        for (long d : shape) {
            n *= d;
        }
        return n;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof TensorInfo o && name.equals(o.name) && dtype == o.dtype && Arrays.equals(shape, o.shape)
                && file.equals(o.file) && offset == o.offset && bytes == o.bytes;
    }

    @Override
    public int hashCode() {
        return Objects.hash(name, dtype, Arrays.hashCode(shape), file, offset, bytes);
    }

    @Override
    public String toString() {
        return name + " " + dtype + Arrays.toString(shape) + " at " + offset + ", " + bytes + " bytes of " + file;
    }
}
