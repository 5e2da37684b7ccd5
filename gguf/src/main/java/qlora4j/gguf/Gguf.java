package qlora4j.gguf;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;

/**
 * One GGUF file, mapped: llama.cpp's format of metadata and tensors in one file (ggml/docs/gguf.md), versions 2 and 3,
 * little-endian. Opening it reads and checks the whole header; the tensors' bytes are not touched and never copied.
 */
public final class Gguf implements AutoCloseable {
    private final Path file;
    private final Arena arena;
    private final MemorySegment bytes;
    private final GgufParser.Header header;
    private final GgufMetadata metadata;

    private Gguf(Path file, Arena arena, MemorySegment bytes, GgufParser.Header header) {
        this.file = file;
        this.arena = arena;
        this.bytes = bytes;
        this.header = header;
        this.metadata = new GgufMetadata(file, header.metadata());
    }

    /**
     * Opens a file.
     *
     * @throws GgufException if it is malformed
     * @throws IOException if it cannot be read
     */
    public static Gguf open(Path file) throws IOException {
        Arena arena = Arena.ofShared();
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            MemorySegment bytes = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
            return new Gguf(file, arena, bytes, GgufParser.parse(file, bytes));
        } catch (IOException | RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    /** The file that is open. */
    public Path file() {
        return file;
    }

    /** The format's version: 2 or 3. */
    public int version() {
        return header.version();
    }

    /** Tensors start at multiples of this many bytes. */
    public int alignment() {
        return header.alignment();
    }

    /** The metadata. */
    public GgufMetadata metadata() {
        return metadata;
    }

    /** The tensors by name, in the order of the header. */
    public Map<String, GgufTensor> tensors() {
        return header.tensors();
    }

    /** A tensor's bytes in the mapping, read-only; they may be used until the file is closed. */
    public MemorySegment segment(GgufTensor tensor) {
        return bytes.asSlice(Math.min(tensor.offset(), bytes.byteSize()), tensor.bytes());
    }

    /** Unmaps the file. Closing twice is harmless. */
    @Override
    public void close() {
        if (arena.scope().isAlive()) {
            arena.close();
        }
    }

    @Override
    public String toString() {
        return file + " (" + header.tensors().size() + " tensors)";
    }
}
