package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
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
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Texts of small models: the GPU writes the tokens that the scalar backend writes, adapters beside the base included. */
@Tag("gpu")
class GenerationGpuTest {
    private static final int NEW = 40;
    /** Positions that the small models are made for. */
    private static final int LONGEST = 512;
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

    /** The continuations by the base, by each of two adapters, and by the base again, from one generator. */
    private static int[][] write(Backend backend, Path model, int[] prompt, SamplingConfig sampling) {
        Decoder decoder = TinyModels.load(model, backend, DType.F32, true);
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
            int[] longer = java.util.stream.IntStream.concat(java.util.Arrays.stream(prompt),
                    java.util.Arrays.stream(out[2])).toArray();
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
        int[][] expected = write(SCALAR, model, prompt, sampling);
        int[][] actual = write(CUDA, model, prompt, sampling);
        for (int i = 0; i < expected.length; i++) {
            assertThat(actual[i]).as("run %d", i).hasSize(NEW).isEqualTo(expected[i]);
        }
        assertThat(expected[1]).as("the adapter changes the text").isNotEqualTo(expected[0]);
        assertThat(expected[3]).isEqualTo(expected[0]);
    }
}
