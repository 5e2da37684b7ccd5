package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;

/** Pages come back as they were written, whichever order they are written in, and the last may be short. */
class PageStoreTest {
    private static final int PAGE = 64;
    private static final int PAGES = 5;

    @TempDir
    Path directory;

    private static ByteBuffer page(int page, int bytes) {
        ByteBuffer buffer = ByteBuffer.allocateDirect(bytes);
        for (int i = 0; i < bytes; i++) {
            buffer.put(i, (byte) (page * 37 + i));
        }
        return buffer;
    }

    @Test
    void pagesComeBack() {
        try (Backend host = Backends.open(Backend.SCALAR)) {
            for (PageStore.Factory factory : List.of(FilePageStore.in(directory), HostPageStore.on(host))) {
                PageStore store = factory.open(PAGES, PAGE);
                try {
                    for (int p : new int[]{3, 0, 4, 1, 2}) {
                        ByteBuffer source = page(p, p == 4 ? PAGE - 10 : PAGE);
                        store.write(p, source);
                        assertThat(source.hasRemaining()).isFalse();
                    }
                    for (int p = 0; p < PAGES; p++) {
                        int bytes = p == 4 ? PAGE - 10 : PAGE;
                        ByteBuffer target = ByteBuffer.allocateDirect(bytes);
                        store.read(p, target);
                        assertThat(target.hasRemaining()).isFalse();
                        assertThat(target.flip()).as("page %d", p).isEqualTo(page(p, bytes));
                    }
                    assertThat(store.direct(0)).as("only a device's own host memory").isNull();
                    assertThat(store.describe()).isNotEmpty();
                } finally {
                    store.close();
                }
            }
        }
    }

    @Test
    void aSpillFileIsNamedAndGoneWhenClosed() {
        FilePageStore store = FilePageStore.open(directory, PAGES, PAGE);
        assertThat(store.describe()).startsWith(directory.toString()).endsWith(".pages");
        store.write(1, page(1, PAGE));
        assertThatThrownBy(() -> store.read(2, ByteBuffer.allocateDirect(PAGE)))
                .isInstanceOf(UncheckedIOException.class).hasMessageContaining("page 2 of the optimizer's state")
                .hasMessageContaining("read from the spill file " + store.describe())
                .hasMessageContaining("EOFException: it ends at byte 128");
        store.close();
        assertThat(store.channel().isOpen()).isFalse();
        assertThat(directory).isEmptyDirectory();
        assertThatThrownBy(() -> FilePageStore.open(directory.resolve("none"), 1, PAGE))
                .hasMessageContaining("(there is no such directory)").hasMessageContaining("--optim-resident");
    }

    @Test
    void hostMemoryIsCalledSo() {
        try (Backend host = Backends.open(Backend.SCALAR)) {
            PageStore store = HostPageStore.on(host).open(1, PAGE);
            assertThat(store.describe()).isEqualTo("host memory");
            store.close();
        }
    }

    /** What is resident is all, or the ring of frames that pages pass through. */
    @Test
    void residentBytesAreCounted() {
        List<String> names = List.of("m", "v");
        try (Backend host = Backends.open(Backend.SCALAR)) {
            try (PagedStates all = new PagedStates(host, DType.F32, 5000, names, Residency.ALL, null)) {
                assertThat(all.describe()).isEqualTo("40000 of 40000 bytes of optimizer state resident");
                assertThat(all.residentBytes()).isEqualTo(all.totalBytes());
                assertThat(all.statistics().hits()).isZero();
                all.acquire(0);
                all.release(0, true);
                assertThat(all.statistics().hits()).isPositive();
                assertThat(all.statistics().bytesSpilled()).isZero();
            }
            try (PagedStates paged = new PagedStates(host, DType.F32, 50_000, names, new Residency.Percent(0),
                    FilePageStore.in(directory))) {
                assertThat(paged.residentBytes()).isEqualTo((long) PagedStates.RING * paged.pageBytes());
                assertThat(paged.describe()).startsWith(paged.residentBytes() + " of 400000 bytes")
                        .contains(", the rest in pages of " + paged.pageBytes() + " bytes in " + directory);
            }
        }
    }
}
