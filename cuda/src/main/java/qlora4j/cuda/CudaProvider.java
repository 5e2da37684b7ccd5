package qlora4j.cuda;

import java.util.Optional;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Device;

/** Offers {@code --backend cuda}, or says why it cannot run here. */
public final class CudaProvider implements Backends.Provider {
    /** The oldest GPUs the PTX in this module is compiled for: Ampere. */
    private static final int OLDEST_CAPABILITY = 80;

    @Override
    public String name() {
        return Backend.CUDA;
    }

    @Override
    public Optional<String> unavailable(Device device) {
        if (!device.kind().equals(Backend.CUDA)) {
            return Optional.of("runs on cuda, cuda:0, cuda:1 ...");
        }
        return CudaDriver.unavailable().or(() -> CudaContext.unavailable(device.index()));
    }

    @Override
    public Backend open(Device device) {
        CudaContext context = CudaContext.primary(device.index());
        int capability = context.capability();
        if (capability < OLDEST_CAPABILITY) {
            String name = context.name();
            context.close();
            throw new IllegalArgumentException("--device " + device + ": " + name + " has compute capability "
                    + capability / 10 + "." + capability % 10 + "; 8.0 or newer is needed");
        }
        return new CudaBackend(device, context);
    }
}
