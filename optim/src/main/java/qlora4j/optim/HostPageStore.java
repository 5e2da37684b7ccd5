package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryUse;

/** Pages in host memory, below a device whose memory is smaller. */
public final class HostPageStore implements PageStore {
    /** Bytes of page-locked memory that are asked for at once. */
    private static final int CHUNK_BYTES = 1 << 30;

    private final MemorySegment[] chunks;
    private final long pagesOfChunk;
    private final int pageBytes;
    private final boolean direct;
    private final Runnable free;

    private HostPageStore(MemorySegment[] chunks, long pagesOfChunk, int pageBytes, boolean direct, Runnable free) {
        this.chunks = chunks;
        this.pagesOfChunk = pagesOfChunk;
        this.pageBytes = pageBytes;
        this.direct = direct;
        this.free = free;
    }

    /** Stores in memory of {@code host}, which is not a device of its own. */
    public static Factory on(Backend host) {
        if (!host.device().isHost()) {
            throw new IllegalArgumentException("host pages need a host backend, not " + host.device());
        }
        return (pages, pageBytes) -> {
            Allocation a = host.allocate(Math.multiplyExact(pages, (long) pageBytes), MemoryUse.OPTIMIZER);
            return new HostPageStore(new MemorySegment[]{a.data()}, pages, pageBytes, false, a::close);
        };
    }

    /** Stores in page-locked host memory that {@code device} copies to and from directly. */
    public static Factory pageLocked(Backend device) {
        return (pages, pageBytes) -> {
            HostCopies copies = device.openHostCopies();
            try {
                long each = Math.max(1, CHUNK_BYTES / pageBytes);
                MemorySegment[] chunks = new MemorySegment[Math.toIntExact(Math.ceilDiv(pages, each))];
                for (int i = 0; i < chunks.length; i++) {
                    chunks[i] = copies.hostMemory(Math.min(each, pages - i * each) * pageBytes);
                }
                return new HostPageStore(chunks, each, pageBytes, true, copies::close);
            } catch (RuntimeException e) {
                copies.close();
                throw e;
            }
        };
    }

    @Override
    public MemorySegment direct(long page) {
        return direct ? slice(page, pageBytes) : null;
    }

    @Override
    public void read(long page, ByteBuffer target) {
        MemorySegment.ofBuffer(target).copyFrom(slice(page, target.remaining()));
        target.position(target.limit());
    }

    @Override
    public void write(long page, ByteBuffer source) {
        slice(page, source.remaining()).copyFrom(MemorySegment.ofBuffer(source));
        source.position(source.limit());
    }

    private MemorySegment slice(long page, long bytes) {
        return chunks[(int) (page / pagesOfChunk)].asSlice(page % pagesOfChunk * pageBytes, bytes);
    }

    @Override
    public String describe() {
        return direct ? "page-locked host memory" : "host memory";
    }

    @Override
    public void close() {
        free.run();
    }
}
