package qlora4j.safetensors;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/**
 * A file mapped read-only. It is unmapped when its owner has closed it and no holder of its raw addresses is left, so
 * that an address given to Arrow never outlives the mapping.
 */
final class Mapping implements AutoCloseable {
    private final Arena arena;
    private final MemorySegment bytes;
    private int holders = 1;
    private boolean closed;

    private Mapping(Arena arena, MemorySegment bytes) {
        this.arena = arena;
        this.bytes = bytes;
    }

    static Mapping of(FileChannel channel) throws IOException {
        Arena arena = Arena.ofShared();
        try {
            return new Mapping(arena, channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena));
        } catch (IOException | RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    static Mapping of(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            return of(channel);
        }
    }

    /** All bytes of the file. */
    synchronized MemorySegment bytes() {
        if (closed) {
            throw new IllegalStateException("the safetensors file was closed");
        }
        return bytes;
    }

    /** Keeps the mapping until {@link #release} is called once more. */
    synchronized MemorySegment hold() {
        MemorySegment held = bytes();
        holders++;
        return held;
    }

    synchronized void release() {
        if (--holders == 0) {
            arena.close();
        }
    }

    @Override
    public synchronized void close() {
        if (!closed) {
            closed = true;
            release();
        }
    }
}
