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
 * {@code -XX:MaxDirectMemorySize} and touches it at once; a model's weights should depend on neither. On Linux large
 * pieces are asked for in huge pages: reading a model through takes up to a tenth less time then.
 */
final class HostMemory {
    private static final long ALIGNMENT = ArenaPlan.ALIGNMENT;
    private static final MethodHandle CALLOC;
    private static final MethodHandle FREE;
    /** Of Linux; null elsewhere. */
    private static final MethodHandle MADVISE;
    private static final int MADV_HUGEPAGE = 14;
    /** Of x86-64 and of most arm64. */
    private static final long HUGE_PAGE = 2L << 20;
    private static final System.Logger LOG = System.getLogger(HostMemory.class.getName());

    static {
        Linker linker = Linker.nativeLinker();
        SymbolLookup libc = linker.defaultLookup();
        CALLOC = linker.downcallHandle(libc.find("calloc").orElseThrow(),
                FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
        FREE = linker.downcallHandle(libc.find("free").orElseThrow(), FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));
        MADVISE = !System.getProperty("os.name").equals("Linux") ? null
                : libc.find("madvise").map(f -> linker.downcallHandle(f, FunctionDescriptor.of(ValueLayout.JAVA_INT,
                        ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_INT))).orElse(null);
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
            if (MADVISE != null && bytes >= 2 * HUGE_PAGE) {
                long first = Math.ceilDiv(raw.address(), HUGE_PAGE) * HUGE_PAGE;
                long pages = (raw.address() + bytes) / HUGE_PAGE - first / HUGE_PAGE;
                // Where the kernel will not, pages are small ones: slower, and nothing else.
                int refused = (int) MADVISE.invokeExact(MemorySegment.ofAddress(first), pages * HUGE_PAGE,
                        MADV_HUGEPAGE);
                if (refused != 0) {
                    LOG.log(System.Logger.Level.DEBUG, "no huge pages for {0} bytes of host memory", bytes);
                }
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
