package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

class PagedStatesTest {
    private static final int N = 100_003;
    private static final int NORMS = 1_234;
    private static final int STEPS = 5;

    @TempDir
    Path directory;

    private record Outcome(List<long[]> bits, PagingStatistics statistics, long resident, long total, int page) {
    }

    private static ParameterStore parameters(Backend backend) {
        ParameterStore store = ParameterStore.builder().add("w", N).addTo("norms", "n", NORMS).build(backend);
        store.flatParams().copyFrom(Bits.normal(DType.F32, 7, (int) store.flatSize(), 1));
        return store;
    }

    private static AdamW adam(Backend backend, ParameterStore store, Residency residency, PageStore.Factory spill) {
        AdamHyper h = AdamHyper.defaults(AdamHyper.Formula.TORCH);
        return new AdamW(backend, store, Map.of(ParameterStore.DEFAULT_GROUP, h.withWeightDecay(0.01), "norms", h),
                residency, spill);
    }

    private static void step(AdamW adam, ParameterStore store, Stream stream, int step) {
        store.flatGrads().copyFrom(Bits.normal(DType.F32, 50 + step, (int) store.flatSize(), 0.1));
        adam.prepare(1e-3, 1);
        adam.clip(stream, 0.3);
        adam.update(stream);
    }

    private static Outcome train(Residency residency, PageStore.Factory spill) {
        try (Backend backend = Backends.open("cpu", null, 2); Stream stream = backend.openStream();
                ParameterStore store = parameters(backend); AdamW adam = adam(backend, store, residency, spill)) {
            long held = backend.ledger().total();
            for (int step = 0; step < STEPS; step++) {
                step(adam, store, stream, step);
            }
            assertThat(backend.ledger().total()).isEqualTo(held);
            PagingStatistics s = adam.states().statistics();
            List<long[]> bits = new ArrayList<>(List.of(Bits.of(store.flatParams())));
            for (int state = 0; state < 2; state++) {
                Tensor all = Tensor.zeros(DType.F32, store.flatSize());
                adam.states().read(state, 0, all);
                bits.add(Bits.of(all));
            }
            return new Outcome(bits, s, adam.states().residentBytes(), adam.states().totalBytes(),
                    adam.states().pageBytes());
        }
    }

    @Test
    void everyBudgetGivesTheSameBytesAndSpillsWhenItMust() {
        Outcome whole = train(Residency.ALL, null);
        assertThat(whole.statistics.bytesSpilled()).isZero();
        assertThat(whole.resident).isEqualTo(whole.total);
        for (String budget : List.of("99.9%", "50%", "10%", "0%", "300KiB")) {
            Outcome paged = train(Residency.parse(budget), FilePageStore.in(directory));
            System.out.println("optimizer state " + paged.total + " bytes, budget " + budget + ": resident "
                    + paged.resident + ", " + paged.statistics);
            assertSameBits(paged, whole);
            assertThat(paged.statistics.bytesSpilled()).as("bytes spilled at %s", budget).isPositive();
            assertThat(paged.resident).isLessThan(paged.total);
            long pass = paged.statistics.bytesSpilled() / STEPS;
            // A walk writes each page that is not resident once and reads it once: not in the first, which finds
            // zeros, but also ahead for a step that is not made, and not where a page has a frame to itself.
            assertThat(pass * STEPS).isEqualTo(paged.statistics.bytesSpilled());
            long alone = budget.equals("99.9%") ? (PagedStates.RING - 1L) * paged.page : 0;
            assertThat(paged.statistics.bytesLoaded()).isBetween((STEPS - 1) * (pass - alone), STEPS * (pass - alone));
        }
        assertThat(directory).isEmptyDirectory();
    }

    private static void assertSameBits(Outcome a, Outcome b) {
        for (int i = 0; i < b.bits.size(); i++) {
            assertThat(a.bits.get(i)).isEqualTo(b.bits.get(i));
        }
    }

    @Test
    void hostMemoryIsAStoreToo() {
        try (Backend host = Backends.open("scalar")) {
            Outcome paged = train(Residency.parse("25%"), HostPageStore.on(host));
            assertSameBits(paged, train(Residency.ALL, null));
            assertThat(paged.statistics.bytesSpilled()).isPositive();
            assertThat(host.ledger().total()).isZero();
        }
    }

    @Test
    void everySizeKeepsItsElements() {
        try (Backend backend = Backends.open("scalar")) {
            for (long size : new long[]{1, 16, 17, 100, 1000, 1023}) {
                for (int pageBytes : new int[]{1, 256, 1000, 1 << 20}) {
                    for (String budget : List.of("0%", "40%", "100%")) {
                        try (PagedStates states = new PagedStates(backend, DType.F32, size, AdamW.STATES,
                                Residency.parse(budget), FilePageStore.in(directory), pageBytes)) {
                            long next = 0;
                            for (int part = 0; part < states.parts(); part++) {
                                assertThat(states.from(part)).isEqualTo(next);
                                next = states.to(part);
                            }
                            assertThat(next).isEqualTo(size);
                            roundTrip(states, (int) size);
                        }
                    }
                }
            }
        }
    }

    private static void roundTrip(PagedStates states, int size) {
        Tensor first = Bits.normal(DType.F32, size, size, 1);
        Tensor second = Bits.normal(DType.F32, size + 1, size, 1);
        states.write(1, 0, second);
        states.write(0, size / 2, first.slice(size / 2, size - size / 2));
        states.write(0, 0, first.slice(0, size / 2));
        Tensor middle = Tensor.zeros(DType.F32, size / 3);
        states.read(0, size / 3, middle);
        assertThat(Bits.of(middle)).isEqualTo(Bits.of(first.slice(size / 3, size / 3)));
        Tensor all = Tensor.zeros(DType.F32, size);
        states.read(1, 0, all);
        assertThat(Bits.of(all)).isEqualTo(Bits.of(second));
    }

    @Test
    void resumedStatesContinueBitForBit() {
        Outcome whole = train(Residency.ALL, null);
        try (Backend backend = Backends.open("cpu", null, 2); Stream stream = backend.openStream();
                ParameterStore store = parameters(backend); ParameterStore again = parameters(backend);
                AdamW before = adam(backend, store, Residency.parse("20%"), FilePageStore.in(directory));
                AdamW after = adam(backend, again, Residency.parse("60%"), FilePageStore.in(directory))) {
            step(before, store, stream, 0);
            step(before, store, stream, 1);
            again.flatParams().copyFrom(store.flatParams());
            Tensor piece = Tensor.zeros(DType.F32, 9_999);
            for (int state = 0; state < 2; state++) {
                for (long from = 0; from < store.flatSize(); from += piece.size()) {
                    Tensor p = piece.slice(0, Math.min(piece.size(), store.flatSize() - from));
                    before.states().read(state, from, p);
                    after.states().write(state, from, p);
                }
            }
            after.resumeAt(before.step());
            for (int step = 2; step < STEPS; step++) {
                step(after, again, stream, step);
            }
            assertThat(Bits.of(again.flatParams())).isEqualTo(whole.bits.getFirst());
        }
    }

    @Test
    void aStepAllocatesNoBuffers() {
        var threads = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        try (Backend backend = Backends.open("cpu", null, 1); Stream stream = backend.openStream();
                ParameterStore store = parameters(backend);
                AdamW adam = adam(backend, store, Residency.parse("50%"), FilePageStore.in(directory))) {
            long least = Long.MAX_VALUE;
            // Until the vector code is compiled, each vector is an object.
            for (int i = 0; i < 300; i++) {
                adam.prepare(1e-3, 1);
                long start = threads.getThreadAllocatedBytes(Thread.currentThread().threadId());
                adam.clip(stream, 1);
                adam.update(stream);
                least = Math.min(least, threads.getThreadAllocatedBytes(Thread.currentThread().threadId()) - start);
            }
            // The arguments of a call, short-lived: under a kilobyte for each, whatever the buffers' size.
            assertThat(least).isLessThan(1024L * (adam.states().parts() + 4));
        }
    }

    @Test
    void planCountsTheSameBytes() {
        for (String budget : List.of("100%", "30%", "0%")) {
            try (Backend plan = new PlanBackend(); Backend backend = Backends.open("scalar");
                    Stream stream = plan.openStream(); ParameterStore shapes = planned(plan);
                    ParameterStore store = parameters(backend);
                    AdamW predicted = adam(plan, shapes, Residency.parse(budget), FilePageStore.in(directory));
                    AdamW real = adam(backend, store, Residency.parse(budget), FilePageStore.in(directory))) {
                predicted.prepare(1, 1);
                predicted.clip(stream, 1);
                predicted.update(stream);
                assertThat(plan.ledger().held(MemoryUse.OPTIMIZER))
                        .isEqualTo(backend.ledger().held(MemoryUse.OPTIMIZER)).isPositive();
                assertThat(real.states().residentBytes()).isEqualTo(predicted.states().residentBytes());
            }
        }
    }

    private static ParameterStore planned(Backend plan) {
        return ParameterStore.builder().add("w", N).addTo("norms", "n", NORMS).build(plan);
    }

    @Test
    void aTruncatedSpillFileIsNamed() {
        FilePageStore[] opened = new FilePageStore[1];
        try (Backend backend = Backends.open("scalar")) {
            PagedStates states = new PagedStates(backend, DType.F32, N, AdamW.STATES, Residency.parse("0%"),
                    (pages, bytes) -> opened[0] = FilePageStore.open(directory, pages, bytes));
            try (states) {
                states.write(0, 0, Bits.normal(DType.F32, 1, N, 1));
                states.statistics();
                opened[0].channel().truncate(3);
                Tensor out = Tensor.zeros(DType.F32, N);
                assertThatThrownBy(() -> {
                    states.read(0, 0, out);
                    states.read(0, 0, out);
                }).isInstanceOf(UncheckedIOException.class).hasMessageContaining(opened[0].describe())
                        .hasMessageContaining("ends at byte 3, was it truncated?");
                assertThatThrownBy(() -> states.read(0, 0, out)).isInstanceOf(UncheckedIOException.class);
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
            assertThat(backend.ledger().total()).isZero();
        }
    }

    @Test
    void aFileThatCannotBeWrittenIsNamed() throws IOException {
        Path file = Files.createFile(directory.resolve("read-only.pages"));
        FileChannel closed = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE);
        closed.close();
        try (Backend backend = Backends.open("scalar");
                PagedStates states = new PagedStates(backend, DType.F32, N, AdamW.STATES, Residency.parse("10%"),
                        (pages, bytes) -> new FilePageStore(file, closed, bytes))) {
            Tensor values = Bits.normal(DType.F32, 1, N, 1);
            assertThatThrownBy(() -> {
                states.write(0, 0, values);
                states.write(0, 0, values);
            }).isInstanceOf(UncheckedIOException.class).hasMessageContaining("written to the spill file " + file);
        }
    }

    @Test
    void aFailingStoreStopsTheTrainingThread() {
        PageStore full = new PageStore() {
            @Override
            public void read(long page, ByteBuffer target) {
                throw new AssertionError("no page was stored");
            }

            @Override
            public void write(long page, ByteBuffer source) {
                throw new UncheckedIOException(new IOException("disk full"));
            }

            @Override
            public String describe() {
                return "full";
            }

            @Override
            public void close() {
            }
        };
        assertThatThrownBy(() -> train(Residency.parse("0%"), (pages, bytes) -> full))
                .hasMessageContaining("disk full");
    }

    @Test
    void badPlacesAreNamed() throws IOException {
        Path missing = directory.resolve("missing");
        Path file = Files.createFile(directory.resolve("file"));
        for (Path bad : List.of(missing, file)) {
            assertThatThrownBy(() -> FilePageStore.open(bad, 2, 4096)).isInstanceOf(UncheckedIOException.class)
                    .hasMessageContaining(bad.toString()).hasMessageContaining("no such directory");
        }
        assertThatThrownBy(() -> FilePageStore.open(directory, 1L << 50, 4096))
                .hasMessageContaining(directory.toString()).hasMessageContaining("are free");
        try (Backend backend = Backends.open("scalar")) {
            assertThatThrownBy(() -> new PagedStates(backend, DType.F32, N, AdamW.STATES, Residency.parse("50%"),
                    FilePageStore.in(missing))).hasMessageContaining("no such directory");
            assertThatThrownBy(() -> new PagedStates(backend, DType.F32, N, AdamW.STATES, Residency.parse("50%"),
                    null)).hasMessageContaining("--optim-resident").hasMessageContaining("directory to spill to");
            assertThat(backend.ledger().total()).isZero();
        }
    }
}
