package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import jcuda.driver.CUfunction;
import jcuda.driver.CUmodule;
import jcuda.driver.JCudaDriver;

/**
 * The compiled kernels in one context. A module is a {@code .cu} file; its PTX is a resource {@code NAME.ptx}, or
 * {@code NAME.sm_90a.ptx} where there is one and the device is of compute capability 9.0. The driver compiles PTX for
 * its GPU when a module is first used, and keeps the result in its own cache between runs.
 */
final class CudaModules implements AutoCloseable {
    private static final int HOPPER = 90;

    private final CudaContext context;
    private final boolean hopper;
    private final Map<String, CUmodule> loaded = new HashMap<>();

    CudaModules(CudaContext context) {
        this.context = context;
        this.hopper = context.capability() == HOPPER;
    }

    CudaContext context() {
        return context;
    }

    /** A kernel, loaded when it is first launched. */
    Kernel kernel(String module, String function) {
        return new Kernel(this, module, function);
    }

    /** Whether the variant of {@code module} that is used here is the one for compute capability 9.0. */
    boolean hopper(String module) {
        return hopper && resource(module + ".sm_90a.ptx") != null;
    }

    synchronized CUfunction function(String module, String name) {
        CUmodule m = loaded.computeIfAbsent(module, this::load);
        CUfunction f = new CUfunction();
        check(JCudaDriver.cuModuleGetFunction(f, m, name), "cuModuleGetFunction " + module + "." + name);
        return f;
    }

    private CUmodule load(String module) {
        byte[] ptx = hopper ? resource(module + ".sm_90a.ptx") : null;
        ptx = ptx == null ? resource(module + ".ptx") : ptx;
        if (ptx == null) {
            throw new IllegalStateException("there is no " + module + ".ptx in this installation");
        }
        CUmodule m = new CUmodule();
        check(JCudaDriver.cuModuleLoadData(m, Arrays.copyOf(ptx, ptx.length + 1)), "cuModuleLoadData of " + module);
        return m;
    }

    private static byte[] resource(String name) {
        try (InputStream in = CudaModules.class.getResourceAsStream(name)) {
            return in == null ? null : in.readAllBytes();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public synchronized void close() {
        loaded.values().forEach(m -> check(JCudaDriver.cuModuleUnload(m), "cuModuleUnload"));
        loaded.clear();
    }
}
