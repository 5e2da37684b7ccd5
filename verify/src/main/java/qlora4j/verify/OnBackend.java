package qlora4j.verify;

import java.util.function.Consumer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Host tensors to a backend and back. What is allocated there lives as long as the backend. */
public class OnBackend {
    private final Backend backend;
    private final Stream stream;

    /**
     * Computes on one of a backend's streams.
     *
     * @param stream of {@code backend}; the caller closes it
     */
    public OnBackend(Backend backend, Stream stream) {
        this.backend = backend;
        this.stream = stream;
    }

    /** Where it computes. */
    public final Backend backend() {
        return backend;
    }

    /** What operations are enqueued on. */
    public final Stream stream() {
        return stream;
    }

    /** A host tensor as the backend can read it: itself where the backend's memory is the host's. */
    public final Tensor device(Tensor host) {
        return backend.device().isHost() ? host : copy(host);
    }

    /** A copy in the backend's memory, for operations that write to it. */
    public final Tensor copy(Tensor host) {
        Tensor device = backend.allocate(MemoryUse.WORKSPACE, host.dtype(), host.shape());
        backend.upload(host, device);
        return device;
    }

    /** A tensor of the backend as the host can read it: itself where the backend's memory is the host's. */
    public final Tensor host(Tensor device) {
        return device.device().isHost() ? device : download(device);
    }

    /** A copy in host memory, which outlives the backend. */
    public final Tensor download(Tensor device) {
        Tensor host = Tensor.zeros(device.dtype(), device.shape());
        backend.download(device, host);
        return host;
    }

    /** A tensor of the backend with every byte set, so that what a kernel leaves out shows. */
    public final Tensor poisoned(DType dtype, long... shape) {
        Tensor host = Tensor.zeros(dtype, shape);
        host.data().fill((byte) 0xff);
        return device(host);
    }

    /** The host's copy of a {@link #poisoned} tensor that an operation fills. */
    public final Tensor filled(DType dtype, long[] shape, Consumer<Tensor> operation) {
        Tensor device = poisoned(dtype, shape);
        operation.accept(device);
        return download(device);
    }
}
