package qlora4j.tensor;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/**
 * Zeroed host memory from the C library's {@code calloc}. The JVM's own allocator counts every byte against
 * {@code -XX:MaxDirectMemorySize} and touches it at once; a model's weights should depend on neither.
 */
final class HostMemory {
    private static final long ALIGNMENT = ArenaPlan.ALIGNMENT;
    private static final MethodHandle CALLOC;
    private static final MethodHandle FREE;

    static {
        Linker linker = Linker.nativeLinker();
        SymbolLookup libc = linker.defaultLookup();
        CALLOC = linker.downcallHandle(libc.find("calloc").orElseThrow(),
                FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
        FREE = linker.downcallHandle(libc.find("free").orElseThrow(), FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));
    }

    private HostMemory() {
    }

    /** {@code bytes} zeroed bytes at a 64-byte boundary, freed when {@code owner} is closed. */
    static MemorySegment allocate(long bytes, Arena owner) {
        try {
            MemorySegment raw = (MemorySegment) CALLOC.invokeExact(bytes + ALIGNMENT, 1L);
            if (raw.address() == 0) {
                owner.close();
                throw new OutOfMemoryError("no " + bytes + " bytes of host memory could be allocated");
            }
            long shift = (ALIGNMENT - raw.address() % ALIGNMENT) % ALIGNMENT;
            return raw.reinterpret(bytes + ALIGNMENT, owner, HostMemory::free).asSlice(shift, bytes);
        } catch (Error | RuntimeException e) {
            throw e;
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
    }

    private static void free(MemorySegment raw) {
        try {
            FREE.invokeExact(raw);
        } catch (Error | RuntimeException e) {
            throw e;
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
    }
}
