package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.nio.charset.StandardCharsets;
import java.util.Optional;
import jcuda.driver.CUcontext;
import jcuda.driver.CUdevice;
import jcuda.driver.CUdevice_attribute;
import jcuda.driver.JCudaDriver;

/**
 * A context on one GPU: what the driver keeps memory and kernels in. Calls of the driver work on the context that is
 * current in the calling thread; {@link #enter} makes this one current.
 */
final class CudaContext implements AutoCloseable {
    /** The oldest GPUs that the PTX in this module is compiled for: Ampere. */
    private static final int OLDEST_CAPABILITY = 80;

    /** Which context each thread has current, so that entering it again costs no call. */
    private static final ThreadLocal<CudaContext> CURRENT = new ThreadLocal<>();

    private final CUdevice device;
    private final int ordinal;
    private final CUcontext context = new CUcontext();
    private final boolean primary;
    /** Written by the thread that closes it, read by all that enter it. */
    private volatile boolean closed;

    private CudaContext(int ordinal, boolean primary) {
        this.ordinal = ordinal;
        this.primary = primary;
        device = device(ordinal);
        if (primary) {
            check(JCudaDriver.cuDevicePrimaryCtxRetain(context, device), "cuDevicePrimaryCtxRetain");
        } else {
            check(JCudaDriver.cuCtxCreate(context, 0, device), "cuCtxCreate");
        }
        enter();
    }

    /** The device's primary context, which all libraries in the process share. */
    static CudaContext primary(int ordinal) {
        return new CudaContext(ordinal, true);
    }

    /** A context of its own beside the primary one. */
    static CudaContext separate(int ordinal) {
        return new CudaContext(ordinal, false);
    }

    /** Why the device of this number cannot be used, or empty. */
    static Optional<String> unavailable(int ordinal) {
        int[] count = new int[1];
        check(JCudaDriver.cuDeviceGetCount(count), "cuDeviceGetCount");
        if (ordinal < count[0]) {
            CUdevice d = device(ordinal);
            int capability = capability(d);
            return capability >= OLDEST_CAPABILITY ? Optional.empty()
                    : Optional.of(name(d) + " has compute capability " + capability / 10 + "." + capability % 10
                            + "; 8.0 or newer is needed");
        }
        StringBuilder there = new StringBuilder();
        for (int i = 0; i < count[0]; i++) {
            there.append(i == 0 ? "" : ", ").append("cuda:").append(i).append(" (").append(name(device(i))).append(')');
        }
        return Optional.of("there is no such device; there is " + (count[0] == 0 ? "none" : there));
    }

    private static CUdevice device(int ordinal) {
        CUdevice d = new CUdevice();
        check(JCudaDriver.cuDeviceGet(d, ordinal), "cuDeviceGet");
        return d;
    }

    private static String name(CUdevice d) {
        byte[] name = new byte[256];
        check(JCudaDriver.cuDeviceGetName(name, name.length, d), "cuDeviceGetName");
        int n = 0;
        while (n < name.length && name[n] != 0) {
            n++;
        }
        return new String(name, 0, n, StandardCharsets.UTF_8);
    }

    /** Makes this context current in the calling thread. */
    void enter() {
        if (closed) {
            throw new IllegalStateException("cuda:" + ordinal + " is closed");
        }
        if (CURRENT.get() == this) {
            return;
        }
        check(JCudaDriver.cuCtxSetCurrent(context), "cuCtxSetCurrent");
        CURRENT.set(this);
    }

    int ordinal() {
        return ordinal;
    }

    String name() {
        return name(device);
    }

    /** Ten times the major plus the minor number: 80, 89, 90 ... */
    int capability() {
        return capability(device);
    }

    private static int capability(CUdevice d) {
        return 10 * attribute(d, CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
                + attribute(d, CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    }

    int multiprocessors() {
        return attribute(device, CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    }

    /** The most shared memory that a block may ask for. */
    int sharedPerBlock() {
        return attribute(device, CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    }

    private static int attribute(CUdevice d, int which) {
        int[] value = new int[1];
        check(JCudaDriver.cuDeviceGetAttribute(value, which, d), "cuDeviceGetAttribute");
        return value[0];
    }

    /** Bytes of the device's memory: free, and in all. The driver's figures, over all processes. */
    long[] memory() {
        enter();
        long[] free = new long[1];
        long[] total = new long[1];
        check(JCudaDriver.cuMemGetInfo(free, total), "cuMemGetInfo");
        return new long[]{free[0], total[0]};
    }

    @Override
    public void close() {
        if (closed) {
            return;
        }
        closed = true;
        CURRENT.remove();
        if (primary) {
            check(JCudaDriver.cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");
        } else {
            check(JCudaDriver.cuCtxDestroy(context), "cuCtxDestroy");
        }
    }
}
