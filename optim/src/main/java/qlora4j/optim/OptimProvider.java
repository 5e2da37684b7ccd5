package qlora4j.optim;

import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.KernelProvider;

/** Offers {@link OptimKernels} and {@link EightBitKernels} to the scalar and cpu backends. */
public final class OptimProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        switch (backend.name()) {
            case Backend.SCALAR -> {
                registry.add(OptimKernels.class, new ScalarOptim());
                registry.add(EightBitKernels.class, new ScalarEightBit());
            }
            case Backend.CPU -> {
                registry.add(OptimKernels.class, new VectorOptim(((CpuBackend) backend).team()));
                registry.add(EightBitKernels.class, new VectorEightBit(((CpuBackend) backend).team()));
            }
            default -> {
            }
        }
    }
}
