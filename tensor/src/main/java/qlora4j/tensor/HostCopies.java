package qlora4j.tensor;

import java.lang.foreign.MemorySegment;

/** Copies between a device and host memory that the device reaches directly, beside the queue of work. */
public interface HostCopies extends AutoCloseable {
    /** Page-locked host memory, fewer than 2^31 bytes, zeroed; it is freed when this is closed. */
    MemorySegment hostMemory(long bytes);

    /** Copies, once all work enqueued so far is done; returns when the copy is done. */
    void toHost(Tensor device, MemorySegment host);

    /** Copies and returns when the copy is done; nothing that is enqueued may use {@code device}. */
    void toDevice(MemorySegment host, Tensor device);

    /** Begins a copy, which runs once all work enqueued so far is done. */
    void beginToHost(Tensor device, MemorySegment host);

    /** Begins a copy, which runs once all work enqueued so far and all copies begun before are done. */
    void beginToDevice(MemorySegment host, Tensor device);

    /** Work enqueued from now on runs after all copies begun so far. */
    void queueWaits();

    /** Returns when all copies begun so far are done, which work enqueued after them does not delay. */
    void await();

    @Override
    void close();
}
