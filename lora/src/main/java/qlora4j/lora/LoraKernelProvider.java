package qlora4j.lora;

import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.KernelProvider;

/** The linear layer's kernels of the scalar and cpu backends. */
public final class LoraKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        switch (backend.name()) {
            case Backend.SCALAR -> registry.add(LoraKernels.class, new ScalarLora());
            case Backend.CPU -> registry.add(LoraKernels.class, new VectorLora(((CpuBackend) backend).team()));
            default -> {
            }
        }
    }
}
