package qlora4j.cuda;

import qlora4j.model.DecoderKernels;
import qlora4j.optim.OptimKernels;
import qlora4j.tensor.Backend;
import qlora4j.tensor.KernelProvider;

/** This module's kernels, one class for each kernel interface. */
public final class CudaKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        if (!(backend instanceof CudaBackend cuda)) {
            return;
        }
        registry.add(DecoderKernels.class, new CudaDecoder(cuda));
        registry.add(OptimKernels.class, new CudaOptim(cuda));
    }
}
