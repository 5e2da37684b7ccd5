package qlora4j.safetensors;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.UUID;

/** A file that is written beside its place, synchronised to disk and then renamed into it. */
public final class AtomicFile {
    /** Bytes handed to the channel at once; heap memory is copied through a buffer of this size. */
    private static final long PIECE = 1 << 20;

    private final FileChannel channel;
    private long position;

    /** What to write. */
    public interface Content {
        /** Writes everything to {@code out}. */
        void writeTo(AtomicFile out) throws IOException;
    }

    private AtomicFile(FileChannel channel) {
        this.channel = channel;
    }

    /**
     * Writes a small file, replacing one that is there. Its directory must exist. A process that is killed meanwhile
     * leaves the old file, or none, and at worst a hidden temporary file beside it.
     */
    public static void write(Path file, byte[] content) throws IOException {
        write(file, out -> out.write(MemorySegment.ofArray(content)));
    }

    /** Writes a file of any size, as {@link #write(Path, byte[])} does. */
    public static void write(Path file, Content content) throws IOException {
        Path directory = file.toAbsolutePath().getParent();
        Path temporary = directory.resolve("." + file.getFileName() + "." + UUID.randomUUID() + ".tmp");
        try {
            try (FileChannel channel = FileChannel.open(temporary, StandardOpenOption.WRITE,
                    StandardOpenOption.CREATE_NEW)) {
                content.writeTo(new AtomicFile(channel));
                channel.force(true);
            }
            Files.move(temporary, file, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException | RuntimeException | Error e) {
            deleteAfter(e, temporary);
            throw e;
        }
        if (directory.getFileSystem().supportedFileAttributeViews().contains("posix")) {
            // The rename itself: elsewhere a directory cannot be opened for this.
            try (FileChannel channel = FileChannel.open(directory, StandardOpenOption.READ)) {
                channel.force(true);
            }
        }
    }

    private static void deleteAfter(Throwable failure, Path temporary) {
        try {
            Files.deleteIfExists(temporary);
        } catch (IOException e) {
            failure.addSuppressed(e);
        }
    }

    /** Bytes written so far. */
    public long position() {
        return position;
    }

    void writeLong(long value) throws IOException {
        write(MemorySegment.ofBuffer(ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN).putLong(0, value)));
    }

    /** Writes all of {@code bytes}. */
    public void write(MemorySegment bytes) throws IOException {
        for (long done = 0; done < bytes.byteSize();) {
            long n = Math.min(PIECE, bytes.byteSize() - done);
            ByteBuffer piece = bytes.asSlice(done, n).asByteBuffer();
            while (piece.hasRemaining()) {
                channel.write(piece);
            }
            done += n;
        }
        position += bytes.byteSize();
    }
}
