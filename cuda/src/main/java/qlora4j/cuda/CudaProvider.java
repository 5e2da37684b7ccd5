package qlora4j.cuda;

import java.util.Optional;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Device;
import qlora4j.tensor.Footprint;

/** Offers {@code --backend cuda}, or says why it cannot run here. */
public final class CudaProvider implements Backends.Provider {
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
        return new CudaBackend(device, CudaContext.primary(device.index()));
    }

    @Override
    public Footprint footprint() {
        return CudaFootprint.INSTANCE;
    }
}
