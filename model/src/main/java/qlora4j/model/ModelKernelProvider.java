package qlora4j.model;

import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.KernelProvider;

/** The decoder's kernels of the scalar and cpu backends. */
public final class ModelKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        switch (backend.name()) {
            case Backend.SCALAR -> registry.add(DecoderKernels.class, new ScalarDecoder());
            case Backend.CPU ->
                registry.add(DecoderKernels.class, new VectorDecoder(((CpuBackend) backend).team()));
            default -> {
            }
        }
    }
}
