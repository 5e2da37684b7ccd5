package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.cuda.TinyModels.Step;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.TrainableTokens;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;
import qlora4j.model.TokenBatch;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Tensor;

/** Adapters with rows of the embedding and of the head of their own, new tokens among them, on a GPU. */
@Tag("gpu")
class TokenRowsGpuTest {
    /** Old tokens, two of which follow each other, and two new ones. */
    private static final List<Integer> IDS = List.of(3, 9, 10, TinyModels.VOCABULARY, TinyModels.VOCABULARY + 1);
    private static final int NEW = 40;
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    private static final Backend CUDA = Gpu.open();

    @TempDir
    private static Path directory;

    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        SCALAR.close();
        CUDA.close();
    }

    private Path model(String kind) throws IOException {
        return TinyModels.write(Files.createTempDirectory(directory, "model"), kind, random);
    }

    /** Sequences in which every third token or so is one of the adapter's. */
    private int[][] sequences(int... lengths) {
        int[][] all = TinyModels.sequences(random, lengths);
        for (int[] each : all) {
            for (int i = 1; i < each.length; i++) {
                each[i] = i % 3 == 0 ? IDS.get(random.nextInt(IDS.size())) : each[i];
            }
        }
        return all;
    }

    /** Its rows are moved away from where they began, each of which is short or a mean. */
    private static Adapter adapter(Decoder decoder, int slot, List<Integer> ids) {
        Adapter adapter = TinyModels.adapter(decoder, slot, 8, 5 + slot,
                TrainableTokens.of(ids, decoder.config().tieWordEmbeddings()));
        Random moves = new Random(slot);
        for (ParameterStore.Parameter p : adapter.parameters().all()) {
            if (p.name().contains("token")) {
                Tensor value = Tensor.zeros(p.value().dtype(), p.value().shape());
                decoder.backend().download(p.value(), value);
                for (long i = 0; i < value.size(); i++) {
                    value.set(i, value.get(i) + 0.3 * moves.nextGaussian());
                }
                decoder.backend().upload(value, p.value());
            }
        }
        return adapter;
    }

    private static Step step(Backend backend, Path model, DType type, TokenBatch batch, boolean checkpointing,
            boolean planned) {
        Decoder decoder = TinyModels.load(model, backend, type, true);
        LossOptions options = new LossOptions(true, checkpointing);
        Adapters use = TinyModels.training(backend, 0, 0);
        try (Adapter adapter = adapter(decoder, 0, IDS)) {
            if (!planned) {
                return TinyModels.step(decoder, adapter.parameters(), batch, use, options, null, null);
            }
            ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, batch, use, options, Tensor.shapeOnly(DType.F32, 1),
                    Tensor.shapeOnly(DType.F64, 1), null));
            try (Allocation arena = backend.allocate(plan.bytes(), MemoryUse.ACTIVATIONS)) {
                return TinyModels.step(decoder, adapter.parameters(), batch, use, options, plan, arena);
            }
        }
    }

    /** The gradients of the rows alone: among all of them they would not count. */
    private static Step ofRows(Step all) {
        Map<String, Tensor> rows = new TreeMap<>(all.grads());
        rows.keySet().removeIf(name -> !name.contains("token"));
        return new Step(all.loss(), rows);
    }

    @ParameterizedTest
    @CsvSource({"llama,F32", "llama3,F32", "llama,BF16", "qwen2,BF16"})
    void trainsAsTheScalarBackend(String kind, DType type) throws IOException {
        Path model = model(kind);
        TokenBatch batch = TinyModels.labelled(sequences(33, 4, 70, 19));
        boolean wide = type == DType.F32;
        Step expected = step(SCALAR, model, type, batch, false, false);
        Step actual = step(CUDA, model, type, batch, false, false);
        System.out.printf("%s %s: loss %.6f, off by %.1e of it, gradients of rows by %.1e, of all by %.1e%n", kind,
                type,
                actual.loss(), Math.abs(actual.loss() - expected.loss()) / expected.loss(),
                ofRows(expected).distance(ofRows(actual)), expected.distance(actual));
        assertThat(ofRows(actual).grads()).hasSize(kind.equals("llama") ? 2 : 1);
        double limit = wide ? DecoderStepGpuTest.F32_LIMIT : DecoderStepGpuTest.BF16_GRADIENT;
        assertThat(Math.abs(actual.loss() - expected.loss()))
                .isLessThanOrEqualTo((wide ? limit : DecoderStepGpuTest.BF16_LOSS) * expected.loss());
        assertThat(expected.distance(actual)).isLessThanOrEqualTo(limit);
        assertThat(ofRows(expected).distance(ofRows(actual))).isPositive().isLessThanOrEqualTo(limit);
        assertThat(step(CUDA, model, type, batch, true, false).sameBits(actual)).as("with checkpointing").isTrue();
        assertThat(step(CUDA, model, type, batch, true, true).sameBits(actual)).as("planned").isTrue();
    }

    /** The continuations by the base, by each of three adapters in turns, of which one has no rows, from one generator. */
    private static int[][] write(Backend backend, Path model, int[] prompt, int[] old) {
        Decoder decoder = TinyModels.load(model, backend, DType.F32, true);
        int[][] out = new int[6][];
        try (Adapter first = adapter(decoder, 0, IDS);
                Adapter second = adapter(decoder, 1, List.of(5, 9, TinyModels.VOCABULARY));
                Adapter plain = TinyModels.adapter(decoder, 2, 4, 6);
                Generator generator = new Generator(decoder, prompt.length + NEW)) {
            Adapters[] use = {Adapters.NONE, first.use(), second.use(), first.use(), plain.use(), Adapters.NONE};
            for (int i = 0; i < use.length; i++) {
                out[i] = generator.generate(use[i].equals(first.use()) ? prompt : old, NEW, SamplingConfig.GREEDY,
                        use[i], Set.of(), null);
            }
        }
        return out;
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen2"})
    void writesAsTheScalarBackend(String kind) throws IOException {
        Path model = model(kind);
        int[] prompt = sequences(14)[0];
        int[] old = TinyModels.sequences(random, 14)[0];
        int[][] expected = write(SCALAR, model, prompt, old);
        int[][] actual = write(CUDA, model, prompt, old);
        for (int i = 0; i < expected.length; i++) {
            assertThat(actual[i]).as("run %d", i).hasSize(NEW).isEqualTo(expected[i]);
        }
        assertThat(expected[3]).isEqualTo(expected[1]);
        assertThat(expected[5]).isEqualTo(expected[0]);
        assertThat(expected[2]).as("the adapter changes the text").isNotEqualTo(expected[0]);
        System.out.printf("%s: %d of %d tokens are new ones%n", kind,
                Arrays.stream(expected).flatMapToInt(Arrays::stream).filter(t -> t >= TinyModels.VOCABULARY).count(),
                expected.length * NEW);
    }
}
