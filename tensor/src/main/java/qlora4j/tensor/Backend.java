package qlora4j.tensor;

import java.util.OptionalLong;

/**
 * A device with memory and one set of kernels on it. Several can be open in one process; each is closed by whoever
 * opened it (see {@link Backends}).
 */
public interface Backend extends Footprint, AutoCloseable {
    String SCALAR = "scalar";
    String CPU = "cpu";
    String CUDA = "cuda";
    String PLAN = "plan";

    /** {@code scalar}, {@code cpu}, {@code cuda} or {@code plan}. */
    String name();

    Device device();

    @Override
    default boolean isOnHost() {
        return device().isHost();
    }

    /** One line for people: backend, lane width, threads or device, memory. */
    String describe();

    /** This backend's implementation of a kernel interface; an error that names both when there is none. */
    <K> K kernels(Class<K> kernelInterface);

    /** Allocates zeroed device memory, aligned to 64 bytes; its bytes are counted under {@code use}. */
    Allocation allocate(long bytes, MemoryUse use);

    /** What is allocated now and was at most, by use. */
    MemoryLedger ledger();

    /**
     * What the system counts, beside the ledger: bytes of the device in use as its driver says, all of this process's
     * contexts and libraries included; on a CPU the peak of the process's resident memory. Empty where it is not known.
     */
    default OptionalLong systemBytes() {
        return OptionalLong.empty();
    }

    /** Allocates a tensor that lives until the backend is closed. */
    default Tensor allocate(MemoryUse use, DType dtype, long... shape) {
        return allocate(Math.max(1, dtype.bytes(Tensor.elements(shape))), use).tensor(0, dtype, shape);
    }

    /** Copies host bytes to a tensor of this backend's device. */
    void upload(Tensor host, Tensor target);

    /** Copies a tensor of this backend's device to host memory, after everything enqueued before. */
    void download(Tensor source, Tensor host);

    /** What the job at hand is predicted to hold on the device; named where there is no room for it. */
    default void predicted(long bytes) {
    }

    /** Copies that run beside the queue of work; an error where the device is the host. */
    default HostCopies openHostCopies() {
        throw new UnsupportedOperationException(device() + " needs no copies");
    }

    /** Opens a stream of work on the device. */
    Stream openStream();

    @Override
    void close();
}
