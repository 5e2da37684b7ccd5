package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;
import qlora4j.model.TokenBatch;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Texts of small models: the GPU writes the tokens that the scalar backend writes, adapters beside the base included. */
@Tag("gpu")
class GenerationGpuTest {
    private static final int NEW = 40;
    /** Positions that the small models are made for. */
    private static final int LONGEST = 512;
    /**
     * How far a token chosen in bfloat16 may be behind the likeliest: its logit and the other's are each off by up to
     * 0.06, as in the golden data (docs/verify.md), here and there.
     */
    private static final double BF16_BEHIND = 0.24;
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    /** For longer texts of larger models; its kernels are compared with the scalar ones elsewhere. */
    private static final Backend CPU = Backends.open(Backend.CPU);
    private static final Backend CUDA = Gpu.open();

    @TempDir
    private static Path directory;

    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
        CUDA.close();
    }

    /** The continuations by the base, by each of two adapters, and by the base again, from one generator. */
    private static int[][] write(Backend backend, Path model, DType type, int[] prompt, SamplingConfig sampling) {
        Decoder decoder = TinyModels.load(model, backend, type, true);
        int[][] out = new int[4][];
        try (Adapter first = TinyModels.adapter(decoder, 0, 8, 5);
                Adapter second = TinyModels.adapter(decoder, 1, 4, 6);
                Generator generator = new Generator(decoder, prompt.length + NEW)) {
            Adapters[] use = {Adapters.NONE, first.use(), second.use(), Adapters.NONE};
            for (int i = 0; i < use.length; i++) {
                out[i] = generator.generate(prompt, NEW, sampling, use[i], Set.of(), null);
            }
        }
        return out;
    }

    /** Recorded steps of one generator are not disturbed by what another makes the model and the backend grow. */
    @Test
    void twoGeneratorsTakeTurns() throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "model"), "llama", random);
        Decoder decoder = TinyModels.load(model, CUDA, DType.F32, true);
        int[] prompt = TinyModels.sequences(random, 5)[0];
        try (Generator small = new Generator(decoder, 5 + 20)) {
            int[] alone = small.generate(prompt, 20, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
            try (Generator large = new Generator(decoder, LONGEST)) {
                int[] longPrompt = TinyModels.sequences(random, 300)[0];
                large.generate(longPrompt, 20, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
                Tensor[] others = new Tensor[8];
                for (int i = 0; i < others.length; i++) {
                    // As large as the smallest table of rotations: it would get the place of one that was freed.
                    others[i] = Gpu.poisoned(CUDA, DType.F32, 256 * 16 - 64);
                }
                assertThat(small.generate(prompt, 20, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null))
                        .isEqualTo(alone);
                assertThat(large.generate(longPrompt, 20, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null))
                        .hasSize(20);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"llama,1", "mistral,30", "qwen3,12"})
    void greedyTokensAreTheCpus(String kind, int promptLength) throws IOException {
        compare(kind, promptLength, SamplingConfig.GREEDY);
    }

    /**
     * In bfloat16, with layers as wide as {@code nf4_matvec_two.cu} wants them: each token of a text, by recorded steps
     * but for the first ones, is the likeliest one of the CPU, or nearly.
     */
    @ParameterizedTest
    @CsvSource({"llama,1", "mistral,30", "qwen2,12"})
    void bfloat16TokensAreTheLikeliest(String kind, int promptLength) throws IOException {
        Path model = TinyModels.writeWide(java.nio.file.Files.createTempDirectory(directory, "wide"), kind, random);
        int[] prompt = TinyModels.sequences(random, promptLength)[0];
        int[][] texts = write(CUDA, model, DType.BF16, prompt, SamplingConfig.GREEDY);
        Decoder decoder = TinyModels.load(model, CPU, DType.BF16, true);
        try (Adapter first = TinyModels.adapter(decoder, 0, 8, 5);
                Adapter second = TinyModels.adapter(decoder, 1, 4, 6)) {
            Adapters[] use = {Adapters.NONE, first.use(), second.use()};
            for (int i = 0; i < use.length; i++) {
                assertThat(texts[i]).hasSize(NEW);
                double behind = behind(decoder, prompt, texts[i], use[i]);
                System.out.printf("%s, text %d: at most %.3f behind the likeliest token%n", kind, i, behind);
                assertThat(behind).as("text %d", i).isLessThanOrEqualTo(BF16_BEHIND);
            }
            assertThat(behind(decoder, prompt, texts[1], Adapters.NONE)).as("without its adapter")
                    .isGreaterThan(BF16_BEHIND);
            assertThat(texts[3]).isEqualTo(texts[0]);
        }
    }

    /** By how much, at most, the logit of a token of {@code text} is below the largest one in its place. */
    private static double behind(Decoder decoder, int[] prompt, int[] text, Adapters adapters) {
        int[] fed = Arrays.copyOf(prompt, prompt.length + text.length - 1);
        System.arraycopy(text, 0, fed, prompt.length, text.length - 1);
        Tensor logits = Tensor.zeros(decoder.type(), fed.length, decoder.vocab(adapters));
        try (Stream s = decoder.backend().openStream()) {
            decoder.logits(s, TokenBatch.of(fed), adapters, null, logits);
        }
        double most = 0;
        for (int i = 0; i < text.length; i++) {
            long row = (prompt.length - 1L + i) * logits.cols();
            double largest = Double.NEGATIVE_INFINITY;
            for (int token = 0; token < logits.cols(); token++) {
                largest = Math.max(largest, logits.get(row + token));
            }
            most = Math.max(most, largest - logits.get(row + text[i]));
        }
        return most;
    }

    /** Texts that end by a token, by the caller and by the limit, each then gone on with; steps are recorded by then. */
    private static int[][] endings(Backend backend, Path model, int[] prompt) {
        Decoder decoder = TinyModels.load(model, backend, DType.F32, true);
        int[][] out = new int[6][];
        try (Generator generator = new Generator(decoder, LONGEST)) {
            out[0] = generator.generate(prompt, NEW, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
            out[1] = generator.generate(prompt, NEW, SamplingConfig.GREEDY, Adapters.NONE, Set.of(out[0][9]), null);
            int[] seen = {0};
            out[2] = generator.generate(prompt, NEW, SamplingConfig.GREEDY, Adapters.NONE, Set.of(),
                    _ -> ++seen[0] < 5);
            int[] longer = java.util.stream.IntStream.concat(Arrays.stream(prompt),
                    Arrays.stream(out[2])).toArray();
            out[3] = generator.resume(longer, NEW - 5, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
            out[4] = new int[]{generator.reused()};
            out[5] = generator.generate(longer, 1, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
        }
        return out;
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "mistral"})
    void textsEndAsTheCpus(String kind) throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "model"), kind, random);
        int[] prompt = TinyModels.sequences(random, 11)[0];
        int[][] expected = endings(SCALAR, model, prompt);
        assertThat(endings(CUDA, model, prompt)).isDeepEqualTo(expected);
        assertThat(expected[4]).containsExactly(prompt.length + 4);
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen2"})
    void drawnTokensAreTheCpus(String kind) throws IOException {
        compare(kind, 9, new SamplingConfig(true, 0.9, 50, 0.95, 1.1, Gpu.SEED));
    }

    private void compare(String kind, int promptLength, SamplingConfig sampling) throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "model"), kind, random);
        int[] prompt = TinyModels.sequences(random, promptLength)[0];
        int[][] expected = write(SCALAR, model, DType.F32, prompt, sampling);
        int[][] actual = write(CUDA, model, DType.F32, prompt, sampling);
        for (int i = 0; i < expected.length; i++) {
            assertThat(actual[i]).as("run %d", i).hasSize(NEW).isEqualTo(expected[i]);
        }
        assertThat(expected[1]).as("the adapter changes the text").isNotEqualTo(expected[0]);
        assertThat(expected[3]).isEqualTo(expected[0]);
    }
}
