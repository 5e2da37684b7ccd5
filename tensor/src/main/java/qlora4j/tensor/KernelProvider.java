package qlora4j.tensor;

/**
 * How a module offers its kernels: one provider a module, listed in {@code META-INF/services}. The same service lets
 * the {@code cuda} module add kernels for every interface without anyone depending on it.
 */
public interface KernelProvider {
    /** Adds this module's kernels for {@code backend}, told apart by its {@link Backend#name()}, if it has any. */
    void register(Backend backend, Registry registry);

    /** Collects implementations of kernel interfaces. */
    interface Registry {
        <K> void add(Class<K> kernelInterface, K kernels);
    }
}
