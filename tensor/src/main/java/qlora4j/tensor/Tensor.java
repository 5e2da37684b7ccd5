package qlora4j.tensor;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;

/**
 * A dense row-major array of elements of one {@link DType} on one {@link Device}. It does not own its memory: whoever
 * allocated the segment decides how long it lives. On the plan device there is no memory, and any access is an error.
 */
public final class Tensor {
    private final DType dtype;
    private final long[] shape;
    private final long size;
    private final MemorySegment data;
    private final Device device;

    private Tensor(DType dtype, long[] shape, MemorySegment data, Device device) {
        this.dtype = dtype;
        this.shape = shape;
        this.size = elements(shape);
        this.data = data;
        this.device = device;
    }

    /**
     * A tensor over existing memory.
     *
     * @param data exactly the tensor's bytes, or more; on a GPU a segment whose address is the device address
     */
    public static Tensor of(DType dtype, MemorySegment data, Device device, long... shape) {
        long bytes = dtype.bytes(elements(shape));
        if (data.byteSize() < bytes) {
            throw new IllegalArgumentException(dtype + Arrays.toString(shape) + " needs " + bytes
                    + " bytes, the memory has " + data.byteSize());
        }
        return new Tensor(dtype, shape.clone(), data.asSlice(0, bytes), device);
    }

    /** A tensor in host memory that exists already. */
    public static Tensor of(DType dtype, MemorySegment data, long... shape) {
        return of(dtype, data, Device.CPU, shape);
    }

    /** Shape and type alone, on the plan device. */
    public static Tensor shapeOnly(DType dtype, long... shape) {
        return new Tensor(dtype, shape.clone(), MemorySegment.NULL, Device.PLAN);
    }

    /** A zeroed host tensor whose memory is freed by the garbage collector: for tests and small tables. */
    public static Tensor zeros(DType dtype, long... shape) {
        return of(dtype, Arena.ofAuto().allocate(Math.max(1, dtype.bytes(elements(shape))), 64), shape);
    }

    /** A host copy of {@code values} as float32. */
    public static Tensor of(float[] values, long... shape) {
        Tensor t = zeros(DType.F32, shape);
        MemorySegment.copy(MemorySegment.ofArray(values), 0, t.data, 0, 4L * check(values.length, shape));
        return t;
    }

    /** A host copy of {@code values} as int32. */
    public static Tensor of(int[] values, long... shape) {
        Tensor t = zeros(DType.I32, shape);
        MemorySegment.copy(MemorySegment.ofArray(values), 0, t.data, 0, 4L * check(values.length, shape));
        return t;
    }

    /** A host copy of {@code values} as float64. */
    public static Tensor of(double[] values, long... shape) {
        Tensor t = zeros(DType.F64, shape);
        MemorySegment.copy(MemorySegment.ofArray(values), 0, t.data, 0, 8L * check(values.length, shape));
        return t;
    }

    private static int check(int length, long[] shape) {
        if (length != elements(shape)) {
            throw new IllegalArgumentException(length + " values for shape " + Arrays.toString(shape));
        }
        return length;
    }

    /** The number of elements of a shape; an error on a negative dimension or overflow. */
    public static long elements(long... shape) {
        long n = 1;
        for (long d : shape) {
            if (d < 0) {
                throw new IllegalArgumentException("negative dimension in " + Arrays.toString(shape));
            }
            n = Math.multiplyExact(n, d);
        }
        return n;
    }

    public DType dtype() {
        return dtype;
    }

    /** A copy of the dimensions. */
    public long[] shape() {
        return shape.clone();
    }

    public int rank() {
        return shape.length;
    }

    /** Dimension {@code i}; a negative {@code i} counts from the last. */
    public long dim(int i) {
        return shape[i < 0 ? shape.length + i : i];
    }

    /** The number of elements. */
    public long size() {
        return size;
    }

    public long bytes() {
        return dtype.bytes(size);
    }

    /** All dimensions but the last, multiplied. */
    public int rows() {
        return shape.length == 0 ? 1 : Math.toIntExact(cols() == 0 ? elements(leading()) : size / cols());
    }

    private long[] leading() {
        return Arrays.copyOf(shape, shape.length - 1);
    }

    /** The last dimension. */
    public int cols() {
        return shape.length == 0 ? 1 : Math.toIntExact(shape[shape.length - 1]);
    }

    /** The bytes. On a GPU the segment's address is the device address, and must not be read here. */
    public MemorySegment data() {
        return data;
    }

    public Device device() {
        return device;
    }

    public boolean hasShape(long... expected) {
        return Arrays.equals(shape, expected);
    }

    /** Whether another tensor has the same dimensions. */
    public boolean hasShapeOf(Tensor other) {
        return Arrays.equals(shape, other.shape);
    }

    /** The same elements under another shape of the same size. */
    public Tensor view(long... newShape) {
        if (elements(newShape) != size) {
            throw new IllegalArgumentException("a view of " + this + " as " + Arrays.toString(newShape));
        }
        return new Tensor(dtype, newShape.clone(), data, device);
    }

    /** Rows {@code from} (inclusive) to {@code to} (exclusive) of the first dimension, sharing memory. */
    public Tensor rows(long from, long to) {
        if (shape.length == 0 || from < 0 || to < from || to > shape[0]) {
            throw new IndexOutOfBoundsException("rows " + from + ".." + to + " of " + this);
        }
        long[] s = shape.clone();
        s[0] = to - from;
        if (device.equals(Device.PLAN)) {
            return new Tensor(dtype, s, data, device);
        }
        long row = shape[0] == 0 ? 0 : bytes() / shape[0];
        return new Tensor(dtype, s, data.asSlice(from * row, (to - from) * row), device);
    }

    /** Elements {@code from} to {@code from + elements(shape)} of the flattened tensor, sharing memory. */
    public Tensor slice(long from, long... newShape) {
        long n = elements(newShape);
        if (from < 0 || from + n > size) {
            throw new IndexOutOfBoundsException("elements " + from + " to " + (from + n) + " of " + this);
        }
        if (device.equals(Device.PLAN)) {
            return new Tensor(dtype, newShape.clone(), data, device);
        }
        return new Tensor(dtype, newShape.clone(), data.asSlice(dtype.bytes(from), dtype.bytes(n)), device);
    }

    /** Element {@code i} of the flattened tensor as a double. Host tensors only. */
    public double get(long i) {
        return dtype.get(data, i);
    }

    /** Sets element {@code i} of the flattened tensor, rounded to its type. Host tensors only. */
    public void set(long i, double value) {
        dtype.set(data, i, value);
    }

    /** All elements as floats. Host tensors of fewer than 2^31 elements only. */
    public float[] toFloats() {
        float[] out = new float[Math.toIntExact(size)];
        if (Conversion.handles(dtype)) {
            Conversion.toFloats(dtype, data, out);
            return out;
        }
        for (int i = 0; i < out.length; i++) {
            out[i] = (float) get(i);
        }
        return out;
    }

    /** All elements as ints, truncated. Host tensors of fewer than 2^31 elements only. */
    public int[] toInts() {
        int[] out = new int[Math.toIntExact(size)];
        for (int i = 0; i < out.length; i++) {
            out[i] = (int) get(i);
        }
        return out;
    }

    /**
     * Copies elements from {@code source}, converting the type: the same values as {@link #get} and {@link #set}, in bulk
     * where both types can be computed with. The memories must not overlap unless the types are equal. Host tensors only.
     */
    public Tensor copyFrom(Tensor source) {
        if (source.size != size) {
            throw new IllegalArgumentException("copy of " + source + " to " + this);
        }
        if (source.dtype == dtype) {
            data.copyFrom(source.data);
        } else if (Conversion.handles(source.dtype) && Conversion.handles(dtype)) {
            Conversion.copy(source.dtype, source.data, dtype, data, size);
        } else {
            for (long i = 0; i < size; i++) {
                set(i, source.get(i));
            }
        }
        return this;
    }

    public Tensor fill(double value) {
        for (long i = 0; i < size; i++) {
            set(i, value);
        }
        return this;
    }

    @Override
    public String toString() {
        return dtype + Arrays.toString(shape) + (device.equals(Device.CPU) ? "" : "@" + device);
    }
}
