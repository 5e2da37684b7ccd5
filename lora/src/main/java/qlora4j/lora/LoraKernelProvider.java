package qlora4j.lora;

import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;
import qlora4j.tensor.KernelProvider;
import qlora4j.tensor.Team;

/** The linear layer's kernels of the scalar and cpu backends. */
public final class LoraKernelProvider implements KernelProvider {
    @Override
    public void register(Backend backend, Registry registry) {
        switch (backend.name()) {
            case Backend.SCALAR -> {
                registry.add(LoraKernels.class, new ScalarLora());
                registry.add(DoraKernels.class, new ScalarDora());
            }
            case Backend.CPU -> {
                Team team = ((CpuBackend) backend).team();
                VectorLora lora = new VectorLora(team);
                registry.add(LoraKernels.class, lora);
                registry.add(DoraKernels.class, new VectorDora(team, lora));
            }
            default -> {
            }
        }
    }
}
