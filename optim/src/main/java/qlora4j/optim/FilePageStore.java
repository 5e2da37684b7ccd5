package qlora4j.optim;

import java.io.EOFException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.UUID;

/**
 * Pages in a spill file of a directory. The file is deleted on close; where the system allows it (Linux, macOS) its
 * name is gone as soon as it is open, so that a killed process leaves nothing behind.
 */
public final class FilePageStore implements PageStore {
    private final Path file;
    private final FileChannel channel;
    private final int pageBytes;

    FilePageStore(Path file, FileChannel channel, int pageBytes) {
        this.file = file;
        this.channel = channel;
        this.pageBytes = pageBytes;
    }

    /** Spill files in {@code directory}, which must exist, be writable and have room. */
    public static Factory in(Path directory) {
        return (pages, pageBytes) -> open(directory, pages, pageBytes);
    }

    static FilePageStore open(Path directory, long pages, int pageBytes) {
        Path file = directory.resolve("optimizer-" + UUID.randomUUID() + ".pages");
        long needed = Math.multiplyExact(pages, (long) pageBytes);
        try {
            if (!Files.isDirectory(directory)) {
                throw new IOException("there is no such directory");
            }
            long free = Files.getFileStore(directory).getUsableSpace();
            if (free < needed) {
                throw new IOException(needed + " bytes are needed, " + free + " are free");
            }
            return new FilePageStore(file, FileChannel.open(file, StandardOpenOption.CREATE_NEW,
                    StandardOpenOption.READ, StandardOpenOption.WRITE, StandardOpenOption.DELETE_ON_CLOSE), pageBytes);
        } catch (IOException e) {
            throw new UncheckedIOException(new IOException("the optimizer's spill file cannot be created in "
                    + directory + " (" + reason(e) + "): give a directory with room, or raise --optim-resident", e));
        }
    }

    /** For tests: another hand on the same file. */
    FileChannel channel() {
        return channel;
    }

    @Override
    public void read(long page, ByteBuffer target) {
        long at = page * pageBytes;
        try {
            while (target.hasRemaining()) {
                int n = channel.read(target, at);
                if (n < 0) {
                    throw new EOFException("it ends at byte " + channel.size() + ", was it truncated?");
                }
                at += n;
            }
        } catch (IOException e) {
            throw failed("read from", page, e);
        }
    }

    @Override
    public void write(long page, ByteBuffer source) {
        long at = page * pageBytes;
        try {
            while (source.hasRemaining()) {
                at += channel.write(source, at);
            }
        } catch (IOException e) {
            throw failed("written to", page, e);
        }
    }

    private UncheckedIOException failed(String what, long page, IOException e) {
        return new UncheckedIOException(new IOException("page " + page + " of the optimizer's state could not be "
                + what + " the spill file " + file + ": " + reason(e), e));
    }

    private static String reason(IOException e) {
        String name = e.getClass().getSimpleName();
        return e.getClass() == IOException.class ? e.getMessage() : name + ": " + e.getMessage();
    }

    @Override
    public String describe() {
        return file.toString();
    }

    @Override
    public void close() {
        try {
            channel.close();
        } catch (IOException e) {
            throw new UncheckedIOException(new IOException("the spill file " + file + " could not be closed", e));
        }
    }
}
