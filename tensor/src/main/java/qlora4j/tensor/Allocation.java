package qlora4j.tensor;

import java.lang.foreign.MemorySegment;

/** A block of device memory with its owner. Closing it twice is harmless; using its tensors after that is an error. */
public final class Allocation implements AutoCloseable {
    private final MemorySegment data;
    private final Device device;
    private final long bytes;
    private Runnable free;

    public Allocation(MemorySegment data, long bytes, Device device, Runnable free) {
        this.data = data;
        this.bytes = bytes;
        this.device = device;
        this.free = free;
    }

    public MemorySegment data() {
        return data;
    }

    public long bytes() {
        return bytes;
    }

    /** A tensor at a byte offset of this memory; on the plan device a shape alone. */
    public Tensor tensor(long offset, DType dtype, long... shape) {
        if (device.equals(Device.PLAN)) {
            return Tensor.shapeOnly(dtype, shape);
        }
        return Tensor.of(dtype, data.asSlice(offset, dtype.bytes(Tensor.elements(shape))), device, shape);
    }

    @Override
    public synchronized void close() {
        if (free != null) {
            free.run();
            free = null;
        }
    }
}
