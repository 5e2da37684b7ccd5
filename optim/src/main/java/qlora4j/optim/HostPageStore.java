package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.MemoryUse;

/** Pages in host memory, below a device whose memory is smaller. */
public final class HostPageStore implements PageStore {
    private final Allocation memory;
    private final int pageBytes;

    private HostPageStore(Allocation memory, int pageBytes) {
        this.memory = memory;
        this.pageBytes = pageBytes;
    }

    /** Stores in memory of {@code host}, which is not a device of its own. */
    public static Factory on(Backend host) {
        if (!host.device().isHost()) {
            throw new IllegalArgumentException("host pages need a host backend, not " + host.device());
        }
        return (pages, pageBytes) -> new HostPageStore(
                host.allocate(Math.multiplyExact(pages, (long) pageBytes), MemoryUse.OPTIMIZER), pageBytes);
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
        return memory.data().asSlice(page * pageBytes, buffer.remaining());
    }

    @Override
    public String describe() {
        return "host memory";
    }

    @Override
    public void close() {
        memory.close();
    }
}
