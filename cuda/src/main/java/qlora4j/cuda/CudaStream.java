package qlora4j.cuda;

import jcuda.driver.CUstream;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A stream on a GPU. All streams of a backend put their work into the backend's one queue, which runs it in order; a
 * stream of its own is the bookkeeping of intermediate tensors.
 */
public final class CudaStream extends Stream {
    private final CudaBackend cuda;

    CudaStream(CudaBackend cuda) {
        super(cuda);
        this.cuda = cuda;
    }

    CudaBackend cuda() {
        return cuda;
    }

    CUstream handle() {
        return cuda.queue();
    }

    @Override
    public void zero(Tensor tensor) {
        cuda.zero(tensor.data().address(), tensor.bytes());
    }

    @Override
    public void synchronize() {
        cuda.synchronize();
    }
}
