package qlora4j.gguf;

import java.util.Arrays;

/**
 * Where a tensor lies and what it is.
 *
 * @param name its name
 * @param type its element type
 * @param shape its dimensions, slowest first as elsewhere in this project (a file has them the other way round)
 * @param offset its first byte, counted from the start of the file
 * @param bytes its length
 */
public record GgufTensor(String name, GgmlType type, long[] shape, long offset, long bytes) {
    public GgufTensor {
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

    /** Elements of a row, the fastest dimension: 1 for a scalar. */
    public long rowElements() {
        return shape.length == 0 ? 1 : shape[shape.length - 1];
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof GgufTensor o && name.equals(o.name) && type == o.type && Arrays.equals(shape, o.shape)
                && offset == o.offset && bytes == o.bytes;
    }

    @Override
    public int hashCode() {
        return name.hashCode() * 31 + Arrays.hashCode(shape);
    }

    @Override
    public String toString() {
        return name + " " + type + Arrays.toString(shape) + " at " + offset + ", " + bytes + " bytes";
    }
}
