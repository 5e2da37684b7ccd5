package qlora4j.tensor;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * Small pieces of host memory that live long, a model's weights, next to each other: so that they lie in huge pages, for
 * which each of them alone is too small. A slab is given back when the last of its pieces is.
 */
final class HostSlabs implements AutoCloseable {
    /** Untouched memory of a slab costs nothing. */
    static final long SLAB = 32L << 20;
    /** A larger piece is memory of its own. */
    static final long LARGEST = SLAB / 4;

    private Slab current;

    private static final class Slab {
        private final Arena arena = Arena.ofShared();
        private final MemorySegment memory = HostMemory.allocate(SLAB, arena);
        private long next;
        /** Pieces in use, and one while there may be more. */
        private int users = 1;
    }

    /** {@code bytes} zeroed bytes at a 64-byte boundary, freed when {@code owner} is closed. */
    synchronized MemorySegment allocate(long bytes, Arena owner) {
        if (bytes > LARGEST) {
            return HostMemory.allocate(bytes, owner);
        }
        if (current == null || current.next + bytes > SLAB) {
            close();
            current = new Slab();
        }
        Slab slab = current;
        MemorySegment piece = slab.memory.asSlice(slab.next, bytes);
        slab.next += Math.ceilDiv(bytes, ArenaPlan.ALIGNMENT) * ArenaPlan.ALIGNMENT;
        slab.users++;
        return MemorySegment.ofAddress(piece.address()).reinterpret(bytes, owner, _ -> release(slab));
    }

    private synchronized void release(Slab slab) {
        if (--slab.users == 0) {
            slab.arena.close();
        }
    }

    /** The slab that was begun gets no more pieces. */
    @Override
    public synchronized void close() {
        if (current != null) {
            release(current);
            current = null;
        }
    }
}
