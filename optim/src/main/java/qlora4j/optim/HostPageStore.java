package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryUse;

/** Pages in host memory, below a device whose memory is smaller. */
public final class HostPageStore implements PageStore {
    private final MemorySegment memory;
    private final int pageBytes;
    private final boolean direct;
    private final Runnable free;

    private HostPageStore(MemorySegment memory, int pageBytes, boolean direct, Runnable free) {
        this.memory = memory;
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
            return new HostPageStore(a.data(), pageBytes, false, a::close);
        };
    }

    /** Stores in page-locked host memory that {@code device} copies to and from directly. */
    public static Factory pageLocked(Backend device) {
        return (pages, pageBytes) -> {
            HostCopies copies = device.openHostCopies();
            try {
                return new HostPageStore(copies.hostMemory(Math.multiplyExact(pages, (long) pageBytes)), pageBytes,
                        true, copies::close);
            } catch (RuntimeException e) {
                copies.close();
                throw e;
            }
        };
    }

    @Override
    public MemorySegment direct(long page) {
        return direct ? memory.asSlice(page * pageBytes, pageBytes) : null;
    }

    @Override
    public void read(long page, ByteBuffer target) {
        MemorySegment.ofBuffer(target).copyFrom(slice(page, target));
        target.position(target.limit());
    }

    @Override
    public void write(long page, ByteBuffer source) {
        slice(page, source).copyFrom(MemorySegment.ofBuffer(source));
        source.position(source.limit());
    }

    private MemorySegment slice(long page, ByteBuffer buffer) {
        return memory.asSlice(page * pageBytes, buffer.remaining());
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
