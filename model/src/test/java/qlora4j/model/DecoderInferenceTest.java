package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

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
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Logits: batched, cached, with adapters. The same sums may be taken in another order for few rows than for many, so
 * float32 logits of magnitude one, at the end of some 30 sums of up to 64 terms, may differ by {@code 30·√64·ε}, about
 * 3e-5; float64 ones by as much of its own epsilon.
 */
class DecoderInferenceTest {
    private static final double F32_TOLERANCE = 3e-5;
    private static final double F64_TOLERANCE = 1e-13;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @TempDir
    private static Path directory;
    private static Path llama;
    private static Path windowed;

    @BeforeAll
    static void write() throws IOException {
        llama = TinyModel.write(directory.resolve("llama.safetensors"), TinyModel.LLAMA);
        windowed = TinyModel.write(directory.resolve("windowed.safetensors"), TinyModel.WINDOWED);
    }

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    private static Decoder load(String model, String backend, DType type) {
        return TinyModel.load(model.equals("llama") ? llama : windowed,
                model.equals("llama") ? TinyModel.LLAMA : TinyModel.WINDOWED,
                backend.equals(Backend.SCALAR) ? SCALAR : CPU, type, true);
    }

    private static void close(String what, float[] actual, float[] expected, double tolerance) {
        assertThat(actual).hasSameSizeAs(expected);
        for (int i = 0; i < expected.length; i++) {
            assertThat(Math.abs((double) actual[i] - expected[i])).as("%s, logit %d: %s and %s", what, i, actual[i],
                    expected[i]).isLessThanOrEqualTo(tolerance);
        }
    }

    private static double tolerance(DType type) {
        return type == DType.F64 ? F64_TOLERANCE : F32_TOLERANCE;
    }

    @ParameterizedTest
    @CsvSource({"llama,scalar,F64", "llama,cpu,F32", "windowed,scalar,F64", "windowed,cpu,F32"})
    void sequencesOfABatchDoNotSeeEachOther(String model, String backend, DType type) {
        Decoder decoder = load(model, backend, type);
        int[][] sequences = TinyModel.sequences(4, 7, 1, 12);
        List<float[]> together = TinyModel.logits(decoder, TokenBatch.of(sequences), Adapters.NONE);
        int row = 0;
        for (int[] sequence : sequences) {
            for (float[] alone : TinyModel.logits(decoder, TokenBatch.of(sequence), Adapters.NONE)) {
                close("row " + row, together.get(row), alone, tolerance(type));
                row++;
            }
        }
    }

    /** Two sequences of different lengths, first their prompts, then token by token. */
    @ParameterizedTest
    @CsvSource({"llama,scalar,F64", "llama,cpu,F32", "windowed,scalar,F64", "windowed,cpu,F32"})
    void cachedDecodingEqualsFullLogits(String model, String backend, DType type) {
        Decoder decoder = load(model, backend, type);
        int[] prompts = {5, 2};
        int[][] sequences = TinyModel.sequences(5, 11, 8);
        List<List<float[]>> full = new ArrayList<>();
        for (int[] sequence : sequences) {
            full.add(TinyModel.logits(decoder, TokenBatch.of(sequence), Adapters.NONE));
        }
        int vocab = decoder.config().vocab();
        try (KvCache cache = new KvCache(decoder.backend(), decoder.config(), type, 2, 11);
                Stream s = decoder.backend().openStream()) {
            for (int round = 0; round < 2; round++) {
                int[] from = {0, 0};
                int[] to = prompts.clone();
                while (to[0] <= 11 && to[1] <= 8) {
                    TokenBatch b = TokenBatch.of(Arrays.copyOfRange(sequences[0], from[0], to[0]),
                            Arrays.copyOfRange(sequences[1], from[1], to[1]));
                    for (int i = 0; i < b.rows(); i++) {
                        b.positions()[i] += from[b.samples()[i]];
                    }
                    Tensor logits = Tensor.zeros(Linear.wide(type), 2, vocab).fill(Double.NaN);
                    decoder.next(s, b, Adapters.NONE, cache, logits);
                    for (int i = 0; i < 2; i++) {
                        assertThat(cache.length(i)).isEqualTo(to[i]);
                        close("sequence " + i + " after " + to[i], logits.rows(i, i + 1).toFloats(),
                                full.get(i).get(to[i] - 1), tolerance(type));
                        from[i] = to[i]++;
                    }
                }
                cache.clear();
            }
        }
    }

    @Test
    void aCacheThatOverflowsStaysAsItWas() {
        Decoder decoder = load("llama", "cpu", DType.F32);
        try (KvCache cache = new KvCache(CPU, decoder.config(), DType.F32, 2, 4); Stream s = CPU.openStream()) {
            Tensor logits = Tensor.zeros(DType.F32, 2, decoder.config().vocab());
            decoder.next(s, TokenBatch.of(TinyModel.sequences(1, 2, 3)), Adapters.NONE, cache, logits);
            assertThatIllegalStateException().isThrownBy(() -> decoder.next(s,
                    TokenBatch.of(TinyModel.sequences(1, 1, 2)), Adapters.NONE, cache, logits))
                    .withMessageContainingAll("sequence 1", "3 tokens", "2", "4");
            assertThat(cache.length(0)).isEqualTo(2);
            assertThat(cache.length(1)).isEqualTo(3);
        }
    }

    /** Slots of one decoder against decoders that never held another adapter: bit for bit, in any order. */
    @Test
    void adaptersSwapWithoutReloading() throws IOException {
        int[] prompt = TinyModel.sequences(6, 9)[0];
        TokenBatch batch = TokenBatch.of(prompt);
        List<List<float[]>> alone = new ArrayList<>();
        List<int[]> written = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            Decoder decoder = load("llama", "cpu", DType.F32);
            try (Adapter adapter = TinyModel.adapter(decoder, 0, 2 + i, 40 + i)) {
                adapter.save(directory.resolve("adapter-" + i));
                alone.add(TinyModel.logits(decoder, batch, adapter.use()));
                written.add(write(decoder, prompt, adapter.use()));
            }
        }
        Decoder decoder = load("llama", "cpu", DType.F32);
        List<float[]> base = TinyModel.logits(decoder, batch, Adapters.NONE);
        try (Adapter first = Adapter.load(decoder, 0, directory.resolve("adapter-0"), false);
                Adapter second = Adapter.load(decoder, 1, directory.resolve("adapter-1"), false);
                Generator generator = new Generator(decoder, 20)) {
            for (Adapter adapter : List.of(first, second, first, second)) {
                equal(TinyModel.logits(decoder, batch, adapter.use()), alone.get(adapter.slot()));
                assertThat(generator.generate(prompt, 8, SamplingConfig.GREEDY, adapter.use(), Set.of(), null))
                        .isEqualTo(written.get(adapter.slot()));
                equal(TinyModel.logits(decoder, batch, Adapters.NONE), base);
            }
            mixed(decoder, prompt, base, alone);
        }
        equal(TinyModel.logits(decoder, batch, Adapters.of(0)), base);
        assertThat(alone.get(0).get(8)).isNotEqualTo(base.get(8));
        assertThat(alone.get(0).get(8)).isNotEqualTo(alone.get(1).get(8));
    }

    /** One batch whose sequences use the base and both adapters. */
    private static void mixed(Decoder decoder, int[] prompt, List<float[]> base, List<List<float[]>> alone) {
        int n = prompt.length;
        int[] slots = new int[3 * n];
        Arrays.fill(slots, 0, n, 1);
        Arrays.fill(slots, n, 2 * n, Adapters.NO_SLOT);
        List<float[]> rows = TinyModel.logits(decoder, TokenBatch.of(prompt, prompt, prompt),
                new Adapters(Adapters.NO_SLOT, Tensor.of(slots, slots.length), null));
        for (int i = 0; i < n; i++) {
            close("second adapter, row " + i, rows.get(i), alone.get(1).get(i), F32_TOLERANCE);
            close("base, row " + i, rows.get(n + i), base.get(i), F32_TOLERANCE);
            close("first adapter, row " + i, rows.get(2 * n + i), alone.get(0).get(i), F32_TOLERANCE);
        }
    }

    private static void equal(List<float[]> actual, List<float[]> expected) {
        for (int i = 0; i < expected.size(); i++) {
            assertThat(actual.get(i)).isEqualTo(expected.get(i)).doesNotContain(Float.NaN);
        }
    }

    private static int[] write(Decoder decoder, int[] prompt, Adapters adapters) {
        try (Generator generator = new Generator(decoder, 20)) {
            return generator.generate(prompt, 8, SamplingConfig.GREEDY, adapters, Set.of(), null);
        }
    }

    @ParameterizedTest
    @CsvSource({"llama,scalar,F64", "llama,cpu,F32", "windowed,cpu,F32"})
    void greedyTokensAreTheLikeliest(String model, String backend, DType type) {
        Decoder decoder = load(model, backend, type);
        int[] prompt = TinyModel.sequences(7, 4)[0];
        int[] made = write(decoder, prompt, Adapters.NONE);
        assertThat(made).hasSize(8);
        int[] all = Arrays.copyOf(prompt, 12);
        System.arraycopy(made, 0, all, 4, 8);
        List<float[]> logits = TinyModel.logits(decoder, TokenBatch.of(all), Adapters.NONE);
        for (int i = 0; i < 8; i++) {
            float[] row = logits.get(3 + i);
            for (float other : row) {
                assertThat(row[made[i]]).isGreaterThanOrEqualTo(other - (float) F32_TOLERANCE);
            }
        }
    }

    @Test
    void generationStops() {
        Decoder decoder = load("llama", "cpu", DType.F32);
        int[] prompt = TinyModel.sequences(7, 4)[0];
        try (Generator generator = new Generator(decoder, 12)) {
            int[] made = generator.generate(prompt, 8, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
            assertThat(made).as("at the limit").hasSize(8);
            assertThat(generator.generate(prompt, 3, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null))
                    .isEqualTo(Arrays.copyOf(made, 3));
            int eos = made[2];
            int first = 0;
            while (made[first] != eos) {
                first++;
            }
            assertThat(generator.generate(prompt, 8, SamplingConfig.GREEDY, Adapters.NONE, Set.of(36, eos), null))
                    .as("at EOS, which is the last").isEqualTo(Arrays.copyOf(made, first + 1));
            List<Integer> seen = new ArrayList<>();
            assertThat(generator.generate(prompt, 8, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), token -> {
                seen.add(token);
                return seen.size() < 2;
            })).as("when the listener says so").isEqualTo(Arrays.copyOf(made, 2));
            assertThat(seen).containsExactly(made[0], made[1]);
        }
    }

    @Test
    void generationRefusesWhatDoesNotFit() {
        Decoder decoder = load("llama", "cpu", DType.F32);
        assertThatIllegalArgumentException().isThrownBy(() -> new Generator(decoder, 65).close())
                .withMessageContainingAll("65", "64");
        try (Generator generator = new Generator(decoder, 12)) {
            assertThatIllegalArgumentException().isThrownBy(() -> generator.generate(new int[4], 9,
                    SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null)).withMessageContainingAll("4", "9", "12");
            assertThatIllegalArgumentException().isThrownBy(() -> generator.generate(new int[0], 1,
                    SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null)).withMessageContaining("prompt");
        }
    }

    /** Logits of a deviation near one, at the end of a dozen tensors rounded to eight bits. */
    @Test
    void bfloat16RunsCloseToFloat32() {
        int[] prompt = TinyModel.sequences(8, 9)[0];
        List<float[]> wide = TinyModel.logits(TinyModel.load(llama, TinyModel.LLAMA, CPU, DType.F32, false),
                TokenBatch.of(prompt), Adapters.NONE);
        Decoder decoder = TinyModel.load(llama, TinyModel.LLAMA, CPU, DType.BF16, false);
        List<float[]> narrow = TinyModel.logits(decoder, TokenBatch.of(prompt), Adapters.NONE);
        for (int i = 0; i < wide.size(); i++) {
            close("row " + i, narrow.get(i), wide.get(i), 0.2);
        }
        assertThat(write(decoder, prompt, Adapters.NONE)).hasSize(8);
    }
}
