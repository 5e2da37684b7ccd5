package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.BatchGenerator;
import qlora4j.model.BatchGenerator.Request;
import qlora4j.model.Decoder;
import qlora4j.model.KvCache;
import qlora4j.model.SamplingConfig;
import qlora4j.model.TokenBatch;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * One batch whose sequences use different adapters, or none, against the scalar backend: their prompts, then a token more
 * of each through the cache; and whole texts, all steps but the first recorded.
 */
@Tag("gpu")
class AdaptersInOneBatchGpuTest {
    private static final int[] LENGTHS = {9, 1, 30, 4};
    /** The second adapter, none, the first, the second. */
    private static final int[] SLOTS = {1, Adapters.NO_SLOT, 0, 1};
    private static final int[] SWAPPED = {0, Adapters.NO_SLOT, 1, 0};
    private static final int NEW = 20;
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

    /** Which adapter each row of sequences of these lengths has. */
    private static Adapters rows(Backend backend, int[] slots, int... lengths) {
        int[] all = IntStream.range(0, slots.length).flatMap(i -> IntStream.generate(() -> slots[i]).limit(lengths[i]))
                .toArray();
        return new Adapters(Adapters.NO_SLOT, Gpu.device(backend, Tensor.of(all, all.length)), null);
    }

    /** The logits behind each prompt, and those behind one token more. */
    private static Tensor[] logits(Backend backend, Path model, DType type, int[][] prompts, int[] next, int[] slots) {
        Decoder decoder = TinyModels.load(model, backend, type, true);
        int n = prompts.length;
        Tensor[] out = new Tensor[2];
        try (Adapter first = TinyModels.adapter(decoder, 0, 8, 5);
                Adapter second = TinyModels.adapter(decoder, 1, 4, 6);
                KvCache cache = new KvCache(backend, decoder.config(), type, n, 40);
                Stream s = backend.openStream()) {
            assertThat(second.slot()).isEqualTo(first.slot() + 1);
            TokenBatch more = new TokenBatch(next, IntStream.rangeClosed(0, n).toArray(), LENGTHS, new int[n], null);
            for (int i = 0; i < out.length; i++) {
                Tensor logits = Gpu.device(backend,
                        Tensor.zeros(type, n, TinyModels.VOCABULARY).fill(Double.NaN));
                decoder.next(s, i == 0 ? TokenBatch.of(prompts) : more,
                        i == 0 ? rows(backend, slots, LENGTHS) : rows(backend, slots, 1, 1, 1, 1), cache, logits);
                out[i] = Gpu.host(backend, logits);
            }
        }
        return out;
    }

    /** In the Euclidean norm, relative to {@code expected}. */
    private static double distance(Tensor actual, Tensor expected, int row) {
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < expected.cols(); i++) {
            long at = (long) row * expected.cols() + i;
            difference += Math.pow(actual.get(at) - expected.get(at), 2);
            norm += Math.pow(expected.get(at), 2);
        }
        return Math.sqrt(difference / norm);
    }

    /** The limits are those of gradients of whole steps. */
    @ParameterizedTest
    @CsvSource({"llama,false,F32", "qwen2,false,BF16", "mistral,true,BF16"})
    void eachRowHasItsOwn(String kind, boolean wide, DType type) throws IOException {
        Path to = java.nio.file.Files.createTempDirectory(directory, "model");
        Path model = wide ? TinyModels.writeWide(to, kind, random) : TinyModels.write(to, kind, random);
        int[][] prompts = TinyModels.sequences(random, LENGTHS);
        int[] next = TinyModels.sequences(random, LENGTHS.length)[0];
        double limit = type == DType.F32 ? DecoderStepGpuTest.F32_LIMIT : DecoderStepGpuTest.BF16_GRADIENT;
        Tensor[] actual = logits(CUDA, model, type, prompts, next, SLOTS);
        Tensor[] expected = logits(SCALAR, model, type, prompts, next, SLOTS);
        Tensor[] swapped = logits(SCALAR, model, type, prompts, next, SWAPPED);
        for (int i = 0; i < expected.length; i++) {
            for (int row = 0; row < LENGTHS.length; row++) {
                assertThat(distance(actual[i], expected[i], row)).as("pass %d, row %d of %s", i, row,
                        Arrays.toString(SLOTS)).isLessThanOrEqualTo(limit);
                if (SLOTS[row] != Adapters.NO_SLOT) {
                    assertThat(distance(swapped[i], expected[i], row)).as("the adapter counts").isGreaterThan(limit);
                }
            }
        }
    }

    /** The texts of all prompts in one batch, row i under the second adapter, none, the first, and so on. */
    private static int[][] texts(Backend backend, Path model, int[][] prompts, SamplingConfig sampling,
            Set<Integer> eos) {
        Decoder decoder = TinyModels.load(model, backend, DType.F32, true);
        int longest = Arrays.stream(prompts).mapToInt(p -> p.length).max().orElseThrow();
        try (Adapter first = TinyModels.adapter(decoder, 0, 8, 5);
                Adapter second = TinyModels.adapter(decoder, 1, 4, 6);
                BatchGenerator generator = new BatchGenerator(decoder, prompts.length, longest + NEW)) {
            Adapters[] use = {second.use(), Adapters.NONE, first.use()};
            List<Request> requests = new ArrayList<>();
            for (int i = 0; i < prompts.length; i++) {
                requests.add(new Request(prompts[i], sampling, use[i % use.length]));
            }
            return generator.generate(requests, NEW, eos, null);
        }
    }

    /** More than eight rows take other kernels. */
    @ParameterizedTest
    @CsvSource({"llama,2,false", "mistral,4,true", "qwen2,8,false", "qwen3,10,false", "llama3,10,true"})
    void textsAreTheScalarBackends(String kind, int rows, boolean drawn) throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "model"), kind, random);
        int[][] prompts = TinyModels.sequences(random, random.ints(rows, 1, 30).toArray());
        SamplingConfig sampling = drawn ? new SamplingConfig(true, 0.9, 50, 0.95, 1.1, Gpu.SEED)
                : SamplingConfig.GREEDY;
        int[][] whole = texts(SCALAR, model, prompts, sampling, Set.of());
        assertThat(texts(CUDA, model, prompts, sampling, Set.of())).isDeepEqualTo(whole);
        Set<Integer> eos = Set.of(whole[1][NEW / 2]);
        int[][] ended = texts(SCALAR, model, prompts, sampling, eos);
        assertThat(ended[1].length).as("a row ends before its limit").isLessThan(NEW);
        assertThat(texts(CUDA, model, prompts, sampling, eos)).isDeepEqualTo(ended);
    }
}
