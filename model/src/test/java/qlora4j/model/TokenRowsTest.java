package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PeftAdapter;
import qlora4j.lora.TrainableTokens;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Adapters with rows of the embedding and of the head of their own, some of them beyond the base's. */
class TokenRowsTest {
    private static final double STEP = 2e-6;
    /** The base has the tokens 0 to 36. */
    private static final int VOCAB = TinyModel.LLAMA.vocab();
    private static final List<Integer> IDS = List.of(3, 9, 10, VOCAB, VOCAB + 1);
    private static final int[][] WITH_NEW = {{1, 3, VOCAB, 7, 10, 3}, {VOCAB + 1, VOCAB, 9, 20, 36}, {4, VOCAB + 1, 5}};
    private static final TokenBatch LABELLED = TinyModel.labelled(WITH_NEW);
    private static final TokenBatch OLD = TokenBatch.of(TinyModel.sequences(1, 6, 9));
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @TempDir
    Path directory;

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    private Decoder load(String model, Backend backend, DType type) throws IOException {
        Path file = directory.resolve(model + ".safetensors");
        if (!Files.exists(file)) {
            TinyModel.write(file, TinyModel.named(model));
        }
        return TinyModel.load(file, TinyModel.named(model), backend, type, true);
    }

    private static LoraConfig config(boolean tied, List<Integer> ids) {
        return new LoraConfig(2, 4, 0, List.of("q_proj", "down_proj"), null, 5)
                .withTokens(TrainableTokens.of(ids, tied));
    }

    /** An adapter whose every parameter has been moved. */
    private static Adapter adapter(Decoder decoder, int slot, List<Integer> ids) {
        Adapter adapter = Adapter.create(decoder, slot, config(decoder.config().tieWordEmbeddings(), ids));
        Philox.Sequence rng = new Philox.Sequence(4, slot, 0);
        for (ParameterStore.Parameter p : adapter.parameters().all()) {
            for (long i = 0; i < p.value().size(); i++) {
                p.value().set(i, p.value().get(i) + 0.1 * rng.nextGaussian());
            }
        }
        return adapter;
    }

    private static List<float[]> logits(Decoder decoder, TokenBatch batch, Adapters adapters) {
        return TinyModel.logits(decoder, batch, adapters);
    }

    private static void assertSame(List<float[]> actual, List<float[]> expected, double limit) {
        assertThat(actual).hasSameSizeAs(expected);
        for (int i = 0; i < expected.size(); i++) {
            assertThat(actual.get(i)).hasSameSizeAs(expected.get(i));
            for (int j = 0; j < expected.get(i).length; j++) {
                assertThat((double) Math.abs(actual.get(i)[j] - expected.get(i)[j])).as("row %d token %d", i, j)
                        .isLessThanOrEqualTo(limit);
            }
        }
    }

    /**
     * In float64 with a step of 2e-6: rounding of some 1e-15 / 2e-6, and the third derivative times 4e-12 / 6. New
     * embeddings, the mean of all, are short, so that the first norm bends more than elsewhere: 1e-7 has room.
     */
    @ParameterizedTest
    @CsvSource({"tied,false", "llama,false", "tied,true", "llama,true"})
    void gradientsAreTheDifferencesOfTheLoss(String model, boolean checkpointing) throws IOException {
        Decoder decoder = load(model, SCALAR, DType.F64);
        try (Stream s = SCALAR.openStream(); Adapter adapter = adapter(decoder, 0, IDS)) {
            TinyModel.loss(s, decoder, LABELLED, adapter.use(), new LossOptions(true, checkpointing));
            int compared = 0;
            for (ParameterStore.Parameter p : adapter.parameters().all()) {
                for (long i = 0; p.name().contains("token") && i < p.value().size(); i++) {
                    double was = p.value().get(i);
                    p.value().set(i, was + STEP);
                    double above = TinyModel.loss(s, decoder, LABELLED, adapter.use(), LossOptions.EVALUATE);
                    p.value().set(i, was - STEP);
                    double below = TinyModel.loss(s, decoder, LABELLED, adapter.use(), LossOptions.EVALUATE);
                    p.value().set(i, was);
                    assertThat(p.grad().get(i)).as("%s %d", p.name(), i).isNotZero();
                    assertThat(Math.abs(p.grad().get(i) - (above - below) / (2 * STEP))).as("%s %d", p.name(), i)
                            .isLessThanOrEqualTo(1e-7);
                    compared++;
                }
            }
            assertThat(compared).isEqualTo((model.equals("tied") ? 1 : 2) * IDS.size() * decoder.config().hidden());
        }
    }

    /** Rows of old tokens begin as the base's, so its logits of them stay; a new one is the mean. */
    @ParameterizedTest
    @ValueSource(strings = {"tied", "llama"})
    void aNewAdapterChangesNothingButTheNumberOfTokens(String model) throws IOException {
        Decoder decoder = load(model, CPU, DType.F32);
        List<float[]> before = logits(decoder, OLD, Adapters.NONE);
        try (Adapter adapter = Adapter.create(decoder, 0, config(model.equals("tied"), IDS))) {
            assertThat(decoder.vocab(adapter.use())).isEqualTo(VOCAB + 2);
            assertThat(decoder.vocab(Adapters.NONE)).isEqualTo(VOCAB);
            List<float[]> after;
            try (Stream s = CPU.openStream()) {
                Tensor all = Tensor.zeros(DType.F32, OLD.rows(), VOCAB + 2).fill(Double.NaN);
                decoder.logits(s, OLD, adapter.use(), null, all);
                after = rows(all);
            }
            for (int i = 0; i < before.size(); i++) {
                double mean = 0;
                for (int j = 0; j < VOCAB; j++) {
                    mean += before.get(i)[j] / (double) VOCAB;
                    // The same products; a longer table may be summed in other tiles.
                    assertThat((double) Math.abs(after.get(i)[j] - before.get(i)[j])).isLessThanOrEqualTo(1e-5);
                }
                assertThat(Math.abs(after.get(i)[VOCAB] - mean)).isLessThanOrEqualTo(1e-5);
                assertThat(after.get(i)[VOCAB + 1]).isEqualTo(after.get(i)[VOCAB]);
            }
        }
    }

    private static List<float[]> rows(Tensor t) {
        return java.util.stream.IntStream.range(0, t.rows()).mapToObj(i -> t.rows(i, i + 1).toFloats()).toList();
    }

    /** Whatever order calls come in, a plan of a step before them included, each sees its own rows and no other's. */
    @ParameterizedTest
    @CsvSource({"tied,F32", "llama,F32", "tied,BF16"})
    void adaptersAndTheBaseDoNotSeeEachOther(String model, DType type) throws IOException {
        Decoder decoder = load(model, CPU, type);
        List<float[]> base = logits(decoder, OLD, Adapters.NONE);
        try (Adapter plain = TinyModel.adapter(decoder, 2, 2, 5); Adapter one = adapter(decoder, 0, IDS)) {
            ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, LABELLED, one.use(), new LossOptions(true, true),
                    Tensor.shapeOnly(DType.F32, 1), Tensor.shapeOnly(DType.F64, 1), null));
            assertThat(plan.tensors()).isPositive();
            List<float[]> ofPlain = logits(decoder, OLD, plain.use());
            List<float[]> ofOne = logits(decoder, TokenBatch.of(WITH_NEW), one.use());
            assertSame(logits(decoder, OLD, Adapters.NONE), base, 0);
            try (Adapter two = adapter(decoder, 1, List.of(3, 5, VOCAB, VOCAB + 1, VOCAB + 2))) {
                List<float[]> ofTwo = logits(decoder, TokenBatch.of(WITH_NEW), two.use());
                assertThat(ofTwo.getFirst()).hasSize(VOCAB + 3);
                assertThat(Arrays.copyOf(ofTwo.getFirst(), VOCAB)).isNotEqualTo(
                        Arrays.copyOf(ofOne.getFirst(), VOCAB));
                assertSame(logits(decoder, TokenBatch.of(WITH_NEW), one.use()), ofOne, 0);
                assertSame(logits(decoder, OLD, Adapters.NONE), base, 0);
                assertSame(logits(decoder, TokenBatch.of(WITH_NEW), two.use()), ofTwo, 0);
                assertSame(logits(decoder, OLD, plain.use()), ofPlain, 0);
                assertSame(logits(decoder, TokenBatch.of(WITH_NEW), two.use()), ofTwo, 0);
            }
            assertSame(logits(decoder, OLD, Adapters.NONE), base, 0);
            assertSame(logits(decoder, TokenBatch.of(WITH_NEW), one.use()), ofOne, 0);
        }
        assertSame(logits(decoder, OLD, Adapters.NONE), base, 0);
    }

    @ParameterizedTest
    @ValueSource(strings = {"tied", "llama"})
    void aSavedAdapterIsTheSame(String model) throws IOException {
        Decoder decoder = load(model, CPU, DType.F32);
        Path saved = directory.resolve("adapter");
        List<float[]> expected;
        try (Adapter adapter = adapter(decoder, 0, IDS)) {
            adapter.save(saved);
            expected = logits(decoder, TokenBatch.of(WITH_NEW), adapter.use());
        }
        try (PeftAdapter file = PeftAdapter.open(saved)) {
            assertThat(file.config().tokens()).isEqualTo(TrainableTokens.of(IDS, model.equals("tied")));
        }
        for (boolean trained : new boolean[]{false, true}) {
            try (Adapter adapter = Adapter.load(decoder, 0, saved, trained)) {
                assertSame(logits(decoder, TokenBatch.of(WITH_NEW), adapter.use()), expected, 0);
            }
        }
    }

    /** As {@link ModelMergerTest}: some dozen float32 roundings a layer of values of magnitude ten. */
    @ParameterizedTest
    @ValueSource(strings = {"tied", "llama"})
    void aMergedModelComputesTheSame(String model) throws IOException {
        DecoderConfig config = TinyModel.named(model);
        Path base = TinyModel.directory(directory, config);
        Decoder decoder = TinyModel.load(base.resolve("model.safetensors"), config, CPU, DType.F32, false);
        List<float[]> expected;
        try (Adapter adapter = adapter(decoder, 0, IDS)) {
            adapter.save(directory.resolve("adapter"));
            expected = logits(decoder, TokenBatch.of(WITH_NEW), adapter.use());
        }
        Path target = directory.resolve("merged");
        try (ModelDirectory source = ModelDirectory.open(base);
                ModelMerger merger = new ModelMerger(source, directory.resolve("adapter"), ModelMerger.Into.DENSE,
                        DType.F32, CPU)) {
            merger.write(target);
        }
        try (ModelDirectory merged = ModelDirectory.open(target)) {
            assertThat(merged.config().vocab()).isEqualTo(VOCAB + 2);
            assertThat(merged.config().tieWordEmbeddings()).isEqualTo(config.tieWordEmbeddings());
            Decoder whole = DecoderLoader.DENSE.load(merged.config(), merged.weights(), CPU);
            assertSame(logits(whole, TokenBatch.of(WITH_NEW), Adapters.NONE), expected, 1e-4);
        }
    }

    /** With room made on loading nothing moves, and numbers are those of a table that moved. */
    @ParameterizedTest
    @ValueSource(strings = {"tied", "llama"})
    void roomMadeOnLoadingChangesNoNumber(String model) throws IOException {
        Decoder moved = load(model, CPU, DType.F32);
        DecoderConfig config = TinyModel.named(model);
        Path base = TinyModel.directory(directory, config);
        try (ModelDirectory files = ModelDirectory.open(base)) {
            Decoder roomy = DecoderLoader.QLORA.withRoomFor(TrainableTokens.of(IDS, config.tieWordEmbeddings()))
                    .load(config, files.weights(), CPU);
            assertSame(logits(roomy, OLD, Adapters.NONE), logits(moved, OLD, Adapters.NONE), 0);
            try (Adapter a = adapter(moved, 0, IDS); Adapter b = adapter(roomy, 0, IDS)) {
                assertThat(roomy.tableMoves()).isZero();
                assertThat(moved.tableMoves()).isPositive();
                assertSame(logits(roomy, TokenBatch.of(WITH_NEW), b.use()),
                        logits(moved, TokenBatch.of(WITH_NEW), a.use()), 0);
            }
        }
    }

    @Test
    void whatCannotBeIsSaid() throws IOException {
        Decoder tied = load("tied", CPU, DType.F32);
        Decoder untied = load("llama", CPU, DType.F32);
        List<float[]> before = logits(untied, OLD, Adapters.NONE);
        assertThatThrownBy(() -> adapter(tied, 0, List.of(3, VOCAB + 1))).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContainingAll("trainable_token_indices", "from " + VOCAB + " on");
        assertThatThrownBy(() -> config(true, List.of(3)).withTrained(LoraConfig.Bias.NONE, List.of("embed_tokens")))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("--modules-to-save");
        assertThatThrownBy(() -> Adapter.create(untied, 0, config(true, IDS)))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("different sizes");
        assertSame(logits(untied, OLD, Adapters.NONE), before, 0);
    }
}
