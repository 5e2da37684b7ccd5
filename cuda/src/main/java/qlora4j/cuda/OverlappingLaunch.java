package qlora4j.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;

/**
 * Launches of kernels that may begin before the kernel in front of them in the queue has ended (programmatic dependent
 * launch): the binding does not have the driver's {@code cuLaunchKernelEx}.
 */
final class OverlappingLaunch {
    private static final int CONFIG_BYTES = 56;
    private static final int ATTRIBUTE_BYTES = 72;
    /** CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION. */
    private static final int ATTRIBUTE = 6;

    private static final MethodHandle LAUNCH = Linker.nativeLinker().downcallHandle(
            SymbolLookup.libraryLookup(CudaDriver.LIBRARY, Arena.global()).findOrThrow("cuLaunchKernelEx"),
            FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS, ADDRESS, ADDRESS));

    private OverlappingLaunch() {
    }

    /**
     * Enqueues {@code f}, which waits by itself for what it needs.
     *
     * @param arguments the addresses of its arguments
     * @return the driver's code
     */
    static int of(Function f, int gridX, int gridY, int gridZ, int blockX, int sharedBytes, long queue,
            MemorySegment arguments) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment attribute = arena.allocate(ATTRIBUTE_BYTES, 8);
            attribute.set(JAVA_INT, 0, ATTRIBUTE);
            attribute.set(JAVA_INT, 8, 1);
            MemorySegment config = arena.allocate(CONFIG_BYTES, 8);
            int[] sizes = {gridX, gridY, gridZ, blockX, 1, 1, sharedBytes};
            MemorySegment.copy(sizes, 0, config, JAVA_INT, 0, sizes.length);
            config.set(JAVA_LONG, 32, queue);
            config.set(ADDRESS, 40, attribute);
            config.set(JAVA_INT, 48, 1);
            return (int) LAUNCH.invokeExact(config, MemorySegment.ofAddress(f.address()), arguments,
                    MemorySegment.NULL);
        } catch (RuntimeException | Error e) {
            throw e;
        } catch (Throwable e) {
            throw new IllegalStateException("cuLaunchKernelEx", e);
        }
    }
}
