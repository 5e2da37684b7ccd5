package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import jcuda.driver.CUmodule;
import jcuda.driver.JCudaDriver;

/**
 * The compiled kernels in one context. A module is a {@code .cu} file; its PTX is a resource {@code NAME.ptx}, or
 * {@code NAME.sm_90a.ptx} where there is one and the device is of compute capability 9.0. The driver compiles PTX for
 * its GPU when a module is first used, and keeps the result in its own cache between runs.
 */
final class CudaModules implements AutoCloseable {
    private static final int HOPPER = 90;
    /** What grid.cuh writes, and what takes its place from compute capability 9.0 on. */
    private static final String WAIT = "//grid.wait";
    private static final String RELEASE = "//grid.launch_dependents";

    private final CudaContext context;
    private final boolean hopper;
    private final Map<String, CUmodule> loaded = new HashMap<>();
    private final Set<String> overlapping = new HashSet<>();

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

    synchronized Function function(String module, String name) {
        CUmodule m = loaded.computeIfAbsent(module, this::load);
        Function f = new Function();
        check(JCudaDriver.cuModuleGetFunction(f, m, name), "cuModuleGetFunction " + module + "." + name);
        return f;
    }

    private CUmodule load(String module) {
        byte[] ptx = hopper ? resource(module + ".sm_90a.ptx") : null;
        ptx = ptx == null ? resource(module + ".ptx") : ptx;
        if (ptx == null) {
            throw new IllegalStateException("there is no " + module + ".ptx in this installation");
        }
        if (context.capability() >= HOPPER) {
            ptx = overlapping(new String(ptx, StandardCharsets.US_ASCII)).getBytes(StandardCharsets.US_ASCII);
        }
        CUmodule m = new CUmodule();
        check(JCudaDriver.cuModuleLoadData(m, Arrays.copyOf(ptx, ptx.length + 1)), "cuModuleLoadData of " + module);
        return m;
    }

    /** The same with grid.cuh's instructions; notes which kernels wait by themselves. */
    private String overlapping(String ptx) {
        if (!ptx.contains(WAIT)) {
            return ptx;
        }
        String[] entries = ptx.split("\\.visible \\.entry ");
        for (int i = 1; i < entries.length; i++) {
            if (entries[i].contains(WAIT)) {
                overlapping.add(entries[i].substring(0, entries[i].indexOf('(')).strip());
            }
        }
        return ptx.replace(".target sm_80", ".target sm_90").replace(WAIT, "griddepcontrol.wait;")
                .replace(RELEASE, "griddepcontrol.launch_dependents;");
    }

    /** Whether a kernel that was loaded waits by itself for the one in front of it, and may begin before that ends. */
    synchronized boolean overlaps(String name) {
        return overlapping.contains(name);
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
