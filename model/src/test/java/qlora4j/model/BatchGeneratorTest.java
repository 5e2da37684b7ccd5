package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.LoraConfig.Bias;
import qlora4j.model.BatchGenerator.Request;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Each row of a batch writes what a generator for it alone writes: the same tokens, since the seeds are fixed and no two
 * logits of these models are as close as what sums in another order differ by.
 */
class BatchGeneratorTest {
    private static final int NEW = 7;
    private static final int CAPACITY = 9 + NEW;
    private static final int[][] PROMPTS = TinyModel.sequences(31, 4, 1, 9, 6);
    private static final SamplingConfig DRAWN = new SamplingConfig(true, 1.3, 20, 0.95, 1.2, 5);
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    private static final Backend CPU = Backends.open(Backend.CPU, null, 2);
    private static final RecordingBackend RECORDING = new RecordingBackend(Backends.open(Backend.SCALAR));

    @TempDir
    private static Path directory;

    @BeforeAll
    static void write() throws IOException {
        for (String name : List.of("llama", "windowed")) {
            TinyModel.write(directory.resolve(name), TinyModel.named(name));
        }
    }

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
        RECORDING.close();
    }

    private static Decoder load(String model, String backend, DType type) {
        Backend b = switch (backend) {
            case "scalar" -> SCALAR;
            case "cpu" -> CPU;
            default -> RECORDING;
        };
        return TinyModel.load(directory.resolve(model), TinyModel.named(model), b, type, true);
    }

    /** The prompts in order, each with its adapter and sampling. */
    private static List<Request> requests(SamplingConfig[] sampling, Adapters... adapters) {
        List<Request> all = new ArrayList<>();
        for (int i = 0; i < adapters.length; i++) {
            all.add(new Request(PROMPTS[i], sampling[i % sampling.length], adapters[i]));
        }
        return all;
    }

    private static List<Request> greedy(Adapters... adapters) {
        return requests(new SamplingConfig[]{SamplingConfig.GREEDY}, adapters);
    }

    private static int[][] alone(Decoder decoder, List<Request> requests, Set<Integer> eos) {
        int[][] all = new int[requests.size()][];
        for (int i = 0; i < all.length; i++) {
            try (Generator generator = new Generator(decoder, CAPACITY)) {
                Request r = requests.get(i);
                all[i] = generator.generate(r.prompt(), NEW, r.sampling(), r.adapters(), eos, null);
            }
        }
        return all;
    }

    /** The same generator for adapters that differ, for others, for one of all rows, and for none. */
    @ParameterizedTest
    @CsvSource({"llama,scalar,F64", "windowed,scalar,F32", "llama,cpu,F32", "windowed,cpu,F32", "llama,cpu,BF16",
            "windowed,recording,F64"})
    void eachRowWritesWhatItWritesAlone(String model, String backend, DType type) {
        Decoder decoder = load(model, backend, type);
        try (Adapter first = TinyModel.adapter(decoder, 0, 2, 40);
                Adapter second = TinyModel.adapter(decoder, 1, 3, 41);
                BatchGenerator batch = new BatchGenerator(decoder, 4, CAPACITY)) {
            assertThat(batch.rows()).isEqualTo(4);
            Adapters one = first.use();
            Adapters two = second.use();
            List<int[][]> texts = new ArrayList<>();
            for (Adapters[] use : new Adapters[][]{{two, Adapters.NONE, one, two}, {one, two, Adapters.NONE, two},
                    {one, one, one, one}, {Adapters.NONE, Adapters.NONE, Adapters.NONE, Adapters.NONE}}) {
                int[][] made = batch.generate(greedy(use), NEW, Set.of(), null);
                assertThat(made).isDeepEqualTo(alone(decoder, greedy(use), Set.of()));
                texts.add(made);
            }
            assertThat(texts.get(1)[0]).as("the adapter counts").isNotEqualTo(texts.get(0)[0]);
            assertThat(texts.get(3)[0]).isNotEqualTo(texts.get(2)[0]);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu", "recording"})
    void aRowDrawsWhatItDrawsAlone(String backend) {
        Decoder decoder = load("llama", backend, DType.F32);
        SamplingConfig other = new SamplingConfig(true, 1.3, 20, 0.95, 1.2, 6);
        SamplingConfig[] sampling = {DRAWN, DRAWN, SamplingConfig.GREEDY, other};
        try (Adapter adapter = TinyModel.adapter(decoder, 0, 2, 40);
                BatchGenerator batch = new BatchGenerator(decoder, 4, CAPACITY)) {
            List<Request> mixed = requests(sampling, adapter.use(), Adapters.NONE, Adapters.NONE, adapter.use());
            assertThat(batch.generate(mixed, NEW, Set.of(), null)).isDeepEqualTo(alone(decoder, mixed, Set.of()));
            List<Request> same = new ArrayList<>();
            for (SamplingConfig s : List.of(DRAWN, DRAWN, other, SamplingConfig.GREEDY)) {
                same.add(new Request(PROMPTS[0], s, Adapters.NONE));
            }
            int[][] made = batch.generate(same, NEW, Set.of(), null);
            assertThat(made[1]).as("the same seed").isEqualTo(made[0]);
            assertThat(made[2]).as("another seed").isNotEqualTo(made[0]);
        }
    }

    /** By a token, by the listener and by the limit; the others go on as if nothing had happened. */
    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu", "recording"})
    void rowsEndByThemselves(String backend) {
        Decoder decoder = load("llama", backend, DType.F32);
        try (Adapter adapter = TinyModel.adapter(decoder, 0, 2, 40);
                BatchGenerator batch = new BatchGenerator(decoder, 4, CAPACITY)) {
            List<Request> rows = greedy(adapter.use(), Adapters.NONE, adapter.use(), Adapters.NONE);
            int[][] whole = alone(decoder, rows, Set.of());
            int eos = whole[1][2];
            int[][] expected = alone(decoder, rows, Set.of(eos));
            assertThat(Arrays.stream(expected).mapToInt(t -> t.length)).contains(NEW).anyMatch(n -> n < NEW);
            List<List<Integer>> seen = List.of(new ArrayList<>(), new ArrayList<>(), new ArrayList<>(),
                    new ArrayList<>());
            int[][] made = batch.generate(rows, NEW, Set.of(eos), (row, token) -> {
                seen.get(row).add(token);
                return true;
            });
            assertThat(made).isDeepEqualTo(expected);
            for (int i = 0; i < made.length; i++) {
                assertThat(seen.get(i)).containsExactlyElementsOf(Arrays.stream(made[i]).boxed().toList());
            }
            int[] count = new int[4];
            int[][] stopped = batch.generate(rows, NEW, Set.of(), (row, _) -> ++count[row] < row + 1);
            for (int i = 0; i < stopped.length; i++) {
                assertThat(stopped[i]).isEqualTo(Arrays.copyOf(whole[i], i + 1));
            }
            assertThat(batch.generate(rows, NEW, Set.of(), null)).as("afterwards").isDeepEqualTo(whole);
            assertThat(batch.generate(rows, 1, Set.of(), null)).isDeepEqualTo(
                    Arrays.stream(whole).map(t -> Arrays.copyOf(t, 1)).toArray(int[][]::new));
        }
    }

    @Test
    void stepsAreRecordedUnlessTheHostReadsWhichAdapterARowHas() {
        Decoder decoder = load("llama", "recording", DType.F32);
        LoraConfig plain = new LoraConfig(2, 4, 0, List.of(LoraConfig.ALL_LINEAR), null, 40);
        try (Adapter adapter = TinyModel.adapter(decoder, 0, plain, 40);
                BatchGenerator batch = new BatchGenerator(decoder, 2, CAPACITY)) {
            int before = RECORDING.replays();
            List<Request> rows = greedy(adapter.use(), Adapters.NONE);
            batch.generate(rows, NEW, Set.of(), null);
            assertThat(RECORDING.replays() - before).as("all steps but the first, which allocates")
                    .isEqualTo(NEW - 2);
            try (Adapter dora = TinyModel.adapter(decoder, 1, plain.withVariant(false, true), 41)) {
                int now = RECORDING.replays();
                List<Request> two = greedy(dora.use(), adapter.use());
                int[][] made = batch.generate(two, NEW, Set.of(), null);
                assertThat(RECORDING.replays()).isEqualTo(now);
                assertThat(made).isDeepEqualTo(alone(decoder, two, Set.of()));
            }
        }
    }

    @Test
    void refusesWhatItCannotDo() {
        Decoder decoder = load("llama", "cpu", DType.F32);
        assertThatIllegalArgumentException().isThrownBy(() -> new BatchGenerator(decoder, 2, 65).close())
                .withMessageContainingAll("65", "64");
        assertThatIllegalArgumentException().isThrownBy(() -> new BatchGenerator(decoder, 0, 8).close())
                .withMessageContaining("0 sequences");
        LoraConfig norms = new LoraConfig(2, 4, 0, List.of(LoraConfig.ALL_LINEAR), null, 1)
                .withTrained(Bias.NONE, List.of("norm"));
        try (BatchGenerator batch = new BatchGenerator(decoder, 2, 12);
                Adapter whole = TinyModel.adapter(decoder, 0, norms, 40)) {
            refused(batch, "1 prompts for a generator of 2", prompt(1, Adapters.NONE));
            refused(batch, "0 prompts");
            refused(batch, "row 1: the prompt has no tokens", prompt(1, Adapters.NONE), prompt(0, Adapters.NONE));
            refused(batch, "row 0: 9 prompt tokens and 4 new ones exceed this generator's 12",
                    prompt(9, Adapters.NONE), prompt(1, Adapters.NONE));
            refused(batch, "batch by itself", prompt(1, Adapters.NONE), prompt(1, whole.use()));
            assertThat(batch.generate(List.of(prompt(1, whole.use()), prompt(2, whole.use())), 4, Set.of(), null))
                    .as("the same adapter in all rows").hasDimensions(2, 4);
        }
        Tensor step = Tensor.zeros(DType.I32, 1);
        for (Adapters adapters : List.of(new Adapters(0, null, new Dropout(0.1, 1, step, null, null)),
                new Adapters(Adapters.NO_SLOT, step, null))) {
            assertThatIllegalArgumentException().isThrownBy(() -> prompt(1, adapters)).withMessageContaining("dropout");
        }
    }

    private static Request prompt(int length, Adapters adapters) {
        return new Request(new int[length], SamplingConfig.GREEDY, adapters);
    }

    private static void refused(BatchGenerator batch, String message, Request... requests) {
        assertThatIllegalArgumentException().isThrownBy(() -> batch.generate(List.of(requests), 4, Set.of(), null))
                .withMessageContaining(message);
    }
}
