package qlora4j.tensor;

/** The dense products of the scalar and cpu backends. */
public final class TensorKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        switch (backend.name()) {
            case Backend.SCALAR -> registry.add(MatmulKernels.class, new ScalarMatmul());
            case Backend.CPU -> registry.add(MatmulKernels.class, new VectorMatmul(((CpuBackend) backend).team()));
            default -> {
            }
        }
    }
}
