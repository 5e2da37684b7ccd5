package qlora4j.verify.vectors;

import java.util.function.Consumer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Host tensors to a backend and back. */
record OnBackend(Backend backend, Stream stream) {
    /** A copy in the backend's memory, which lives as long as the backend. */
    Tensor copy(Tensor host) {
        Tensor device = backend.allocate(MemoryUse.WORKSPACE, host.dtype(), host.shape());
        backend.upload(host, device);
        return device;
    }

    /** A copy in host memory. */
    Tensor host(Tensor device) {
        Tensor host = Tensor.zeros(device.dtype(), device.shape());
        backend.download(device, host);
        return host;
    }

    /** The host copy of a tensor that an operation fills; it holds ones bits before, so that what is left out shows. */
    Tensor filled(DType dtype, long[] shape, Consumer<Tensor> operation) {
        Tensor poison = Tensor.zeros(dtype, shape);
        poison.data().fill((byte) 0xff);
        Tensor device = copy(poison);
        operation.accept(device);
        return host(device);
    }
}
