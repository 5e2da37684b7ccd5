package qlora4j.tensor;

import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.ServiceLoader;

/**
 * Opens backends by name. {@code auto} takes CUDA where it is present, else the Vector API, else scalar; what is asked
 * for by name and is not there is an error that says why.
 */
public final class Backends {
    /** The system property that chooses the vector width in bits; unset: the widest this CPU prefers. */
    public static final String VECTOR_BITS = "qlora4j.vectorBits";

    /** A backend that lives in a module of its own (CUDA). */
    public interface Provider {
        String name();

        /** Why this backend cannot run here, or empty when it can. */
        Optional<String> unavailable(Device device);

        Backend open(Device device);

        /** What its kernels hold, which can be asked where the device is not there. */
        Footprint footprint();
    }

    private Backends() {
    }

    /**
     * Opens a backend.
     *
     * @param name {@code auto}, {@code scalar}, {@code cpu} or {@code cuda}
     * @param device the device, or null for the first that fits
     * @param threads threads of the cpu backend; 0: as many as there are processors
     */
    public static Backend open(String name, Device device, int threads) {
        if (threads < 0) {
            throw new IllegalArgumentException("--threads " + threads + ": must be 0 (all processors) or more");
        }
        int n = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        return switch (name) {
            case Backend.SCALAR, Backend.CPU -> openCpu(name, device, n);
            case "auto" -> openBest(device, n);
            default -> openProvided(name, device);
        };
    }

    /** Opens the cpu or scalar backend on all processors. */
    public static Backend open(String name) {
        return open(name, null, 0);
    }

    private static Backend openCpu(String name, Device device, int threads) {
        if (device != null && !device.isHost()) {
            throw new IllegalArgumentException("--backend " + name + " runs on cpu, not on --device " + device);
        }
        if (name.equals(Backend.CPU) && !vectorModulePresent()) {
            throw new IllegalArgumentException("--backend cpu needs the Vector API: start Java with"
                    + " --add-modules jdk.incubator.vector (./qlora does), or choose --backend scalar");
        }
        return new CpuBackend(name, threads);
    }

    private static Backend openBest(Device device, int threads) {
        if (device != null && !device.isHost()) {
            return openProvided(device.kind(), device);
        }
        if (device == null) {
            Device first = new Device(Backend.CUDA, 0);
            for (Provider p : providers()) {
                if (p.name().equals(Backend.CUDA) && p.unavailable(first).isEmpty()) {
                    return p.open(first);
                }
            }
        }
        if (vectorModulePresent()) {
            return new CpuBackend(Backend.CPU, threads);
        }
        System.getLogger(Backends.class.getName()).log(System.Logger.Level.WARNING,
                "The Vector API is missing (--add-modules jdk.incubator.vector): running the SCALAR backend, many times slower.");
        return new CpuBackend(Backend.SCALAR, 1);
    }

    private static Backend openProvided(String name, Device device) {
        Device d = device == null ? new Device(name, 0) : device;
        for (Provider p : providers()) {
            if (p.name().equals(name)) {
                p.unavailable(d).ifPresent(why -> {
                    throw new IllegalArgumentException("--backend " + name + " --device " + d + ": " + why);
                });
                return p.open(d);
            }
        }
        String asked = device == null ? "--backend " + name + ": there is no such backend in this installation;"
                : "--device " + device + ": there is no " + name + " backend in this installation; leave --device out,"
                        + " or use --device cpu;";
        throw new IllegalArgumentException(asked + " --backend can be auto, scalar, cpu"
                + providers().stream().map(p -> ", " + p.name()).reduce("", String::concat));
    }

    /** What the backend called {@code name} holds in a step, whether or not it can run here. */
    public static Footprint footprint(String name) {
        if (name.equals(Backend.SCALAR) || name.equals(Backend.CPU)) {
            return Footprint.HOST;
        }
        return providers().stream().filter(p -> p.name().equals(name)).findFirst().map(Provider::footprint)
                .orElseThrow(() -> new IllegalArgumentException("--backend " + name
                        + ": there is no such backend in this installation; there are scalar, cpu"
                        + providers().stream().map(p -> ", " + p.name()).reduce("", String::concat)));
    }

    /** The names of the backends that this installation has, whether or not they can run here. */
    public static List<String> names() {
        List<String> names = new ArrayList<>(List.of(Backend.SCALAR, Backend.CPU));
        providers().forEach(p -> names.add(p.name()));
        return names;
    }

    private static List<Provider> providers() {
        return ServiceLoader.load(Provider.class, Backends.class.getClassLoader()).stream()
                .map(ServiceLoader.Provider::get).toList();
    }

    /** Whether the JVM was started with the Vector API. */
    public static boolean vectorModulePresent() {
        return ModuleLayer.boot().findModule("jdk.incubator.vector").isPresent();
    }

    /** Lanes times 32 of the cpu backend's float vectors. */
    public static int vectorBits() {
        return Lanes.BITS;
    }
}
