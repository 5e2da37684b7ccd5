package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jcuda.Pointer;
import jcuda.driver.CUfunction_attribute;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.Tensor;

/**
 * A function of a module, ready to be launched. It is loaded on its first launch. A launch allocates nothing in Java
 * beyond what {@code Tensor} views its caller makes:
 *
 * <pre>
 * norm.launch(stream, rows, 1, 1, 256, 0, Kernel.args().ptr(x).ptr(weight).ptr(y).i32(cols).f32(eps));
 * </pre>
 */
final class Kernel {
    /** Dynamic shared memory beyond this many bytes is asked for by name. */
    private static final int SHARED_WITHOUT_ASKING = 48 << 10;

    private static final ThreadLocal<Args> ARGS = ThreadLocal.withInitial(Args::new);

    private final CudaModules modules;
    private final String module;
    private final String name;
    private Function function;
    private boolean overlaps;
    private int sharedAllowed = SHARED_WITHOUT_ASKING;

    Kernel(CudaModules modules, String module, String name) {
        this.modules = modules;
        this.module = module;
        this.name = name;
    }

    /** The calling thread's argument buffer, emptied. Valid until the next call. */
    static Args args() {
        return ARGS.get().clear();
    }

    /**
     * Enqueues the kernel.
     *
     * @param gridX blocks in x (up to 2^31 - 1); y and z up to 65535; a launch with no block at all does nothing
     * @param blockX threads a block
     * @param sharedBytes dynamic shared memory a block
     */
    void launch(CudaStream stream, long gridX, int gridY, int gridZ, int blockX, int sharedBytes, Args args) {
        launch(stream, gridX, gridY, gridZ, blockX, sharedBytes, args, stream.cuda().recording());
    }

    /**
     * As {@link #launch}: it may begin, where it waits by itself, before the kernel in front of it has ended. For kernels
     * that wait before they read anything, and those right behind another of the same operation, which waited for all
     * before it.
     */
    void launchEarly(CudaStream stream, long gridX, int gridY, int blockX, int sharedBytes, Args args) {
        launch(stream, gridX, gridY, 1, blockX, sharedBytes, args, true);
    }

    /** As above with one row of blocks. */
    void launchEarly(CudaStream stream, long gridX, int blockX, Args args) {
        launchEarly(stream, gridX, 1, blockX, 0, args);
    }

    private void launch(CudaStream stream, long gridX, int gridY, int gridZ, int blockX, int sharedBytes, Args args,
            boolean early) {
        if (gridX == 0 || gridY == 0 || gridZ == 0) {
            return;
        }
        if (gridX > Integer.MAX_VALUE || gridY > 65535 || gridZ > 65535) {
            throw new IllegalArgumentException(this + ": a grid of " + gridX + " x " + gridY + " x " + gridZ
                    + " blocks is beyond what the GPU takes");
        }
        Function f = function();
        if (sharedBytes > sharedAllowed) {
            allowShared(f, sharedBytes);
        }
        CudaProfile profile = stream.cuda().profile();
        if (profile != null) {
            profile.begin(name);
        }
        int rc = overlaps && early
                ? OverlappingLaunch.of(f, (int) gridX, gridY, gridZ, blockX, sharedBytes, stream.cuda().queueAddress(),
                        args.memory)
                : JCudaDriver.cuLaunchKernel(f, (int) gridX, gridY, gridZ, blockX, 1, 1, sharedBytes, stream.handle(),
                        args.table, null);
        if (rc != 0) {
            check(rc, "cuLaunchKernel of " + this + " with " + gridX + " x " + gridY + " x " + gridZ + " blocks of "
                    + blockX + " threads and " + sharedBytes + " bytes of shared memory");
        }
        if (profile != null) {
            profile.end();
        }
    }

    /** As above with one row of blocks. */
    void launch(CudaStream stream, long gridX, int blockX, Args args) {
        launch(stream, gridX, 1, 1, blockX, 0, args);
    }

    private synchronized void allowShared(Function f, int bytes) {
        check(JCudaDriver.cuFuncSetAttribute(f, CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                bytes), "cuFuncSetAttribute of " + this + " to " + bytes + " bytes of shared memory");
        sharedAllowed = bytes;
    }

    private synchronized Function function() {
        modules.context().enter();
        if (function == null) {
            function = modules.function(module, name);
            overlaps = modules.overlaps(name);
        }
        return function;
    }

    @Override
    public String toString() {
        return module + "." + name;
    }

    /**
     * The arguments of a launch in the order of the kernel's parameters. The driver reads an array of addresses, one of
     * each value; both lie in one block of memory that belongs to a thread.
     */
    static final class Args {
        private static final int MOST = 64;
        private static final int BYTES = 4096;

        private final MemorySegment memory = Arena.ofAuto().allocate(8L * MOST + BYTES, 128);
        private final Pointer table = Address.host(memory);
        private int count;
        private long used;

        private Args clear() {
            count = 0;
            used = 8L * MOST;
            return this;
        }

        private long place(int bytes, int alignment) {
            long at = (used + alignment - 1) / alignment * alignment;
            if (count == MOST || at + bytes > memory.byteSize()) {
                throw new IllegalStateException("too many arguments for a kernel");
            }
            memory.setAtIndex(ValueLayout.JAVA_LONG, count++, memory.address() + at);
            used = at + bytes;
            return at;
        }

        /** A device tensor's address; null: the null pointer. */
        Args ptr(Tensor t) {
            return i64(t == null ? 0 : t.data().address());
        }

        /** A device address. */
        Args ptr(long address) {
            return i64(address);
        }

        Args i32(int v) {
            memory.set(ValueLayout.JAVA_INT, place(4, 4), v);
            return this;
        }

        /** A boolean as an int, 0 or 1. */
        Args flag(boolean v) {
            return i32(v ? 1 : 0);
        }

        Args i64(long v) {
            memory.set(ValueLayout.JAVA_LONG, place(8, 8), v);
            return this;
        }

        Args f32(float v) {
            memory.set(ValueLayout.JAVA_FLOAT, place(4, 4), v);
            return this;
        }

        Args f64(double v) {
            memory.set(ValueLayout.JAVA_DOUBLE, place(8, 8), v);
            return this;
        }

        /** A struct by value, such as a tensor map. */
        Args bytes(MemorySegment value, int alignment) {
            int n = Math.toIntExact(value.byteSize());
            MemorySegment.copy(value, 0, memory, place(n, alignment), n);
            return this;
        }
    }
}
