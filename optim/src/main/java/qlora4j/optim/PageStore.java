package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;

/**
 * Where pages go that have no room on the device: a file, or host memory. Calls come from one thread at a time; a page
 * is read only after it was written. A failure is an {@link java.io.UncheckedIOException} that names the file.
 */
public interface PageStore extends AutoCloseable {
    /** Opens a store once the size is known. */
    interface Factory {
        /** A store for {@code pages} pages of {@code pageBytes} bytes. */
        PageStore open(long pages, int pageBytes);
    }

    /** Fills {@code target}, a page from its position to its limit, with page {@code page}. */
    void read(long page, ByteBuffer target);

    /** Keeps {@code source}, a page from its position to its limit, as page {@code page}. */
    void write(long page, ByteBuffer source);

    /** Where page {@code page} lies, if a device can copy to and from it directly; else null. */
    default MemorySegment direct(long page) {
        return null;
    }

    /** For people: the file's name, or "host memory". */
    String describe();

    @Override
    void close();
}
