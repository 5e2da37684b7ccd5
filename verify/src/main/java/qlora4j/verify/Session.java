package qlora4j.verify;

import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * What every check works with.
 *
 * @param backend that computes
 * @param stream on it
 * @param report that takes the outcomes
 */
record Session(Backend backend, Stream stream, Report report) {
    /** A host tensor as the backend can read it. */
    Tensor device(Tensor host) {
        if (backend.device().isHost()) {
            return host;
        }
        Tensor device = backend.allocate(MemoryUse.WORKSPACE, host.dtype(), host.shape());
        backend.upload(host, device);
        return device;
    }

    /** A tensor of the backend as the host can read it. */
    Tensor host(Tensor device) {
        if (device.device().isHost()) {
            return device;
        }
        Tensor host = Tensor.zeros(device.dtype(), device.shape());
        backend.download(device, host);
        return host;
    }

    /** A tensor of the backend with every byte set, so that what a kernel leaves out shows. */
    Tensor poisoned(DType dtype, long... shape) {
        Tensor host = Tensor.zeros(dtype, shape);
        host.data().fill((byte) 0xff);
        return device(host);
    }
}
