package qlora4j.blockwise;

import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.KernelProvider;
import qlora4j.tensor.Team;

/** Offers this module's kernels for the scalar and cpu backends. */
public final class BlockwiseKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        // The Vector API is touched only where it was asked for: the scalar backend runs without it.
        switch (backend.name()) {
            case Backend.SCALAR -> {
                registry.add(BlockwiseKernels.class, new ScalarBlockwise());
                registry.add(ExactInt8Kernels.class, new ScalarExactInt8());
            }
            case Backend.CPU -> {
                Team team = ((CpuBackend) backend).team();
                registry.add(BlockwiseKernels.class, new VectorBlockwise(team));
                registry.add(ExactInt8Kernels.class, new VectorExactInt8(team));
            }
            default -> {
            }
        }
    }
}
