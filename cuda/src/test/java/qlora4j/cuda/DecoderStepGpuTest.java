package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.cuda.TinyModels.Step;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.DecoderConfig;
import qlora4j.model.TokenBatch;
import qlora4j.model.TrainableWeights;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** Whole steps of small models on a GPU: loss and gradients against the scalar backend, and the same however run. */
@Tag("gpu")
class DecoderStepGpuTest {
    private static final LossOptions PLAIN = new LossOptions(true, false);
    private static final LossOptions CHECKPOINTING = new LossOptions(true, true);
    /**
     * Float32 against sums in double: some thirty products and sums in a row, each off by √n·ε/2 of its magnitude at
     * n of 64 to 176, are 1e-5 together; the same limit as against the golden data.
     */
    static final double F32_LIMIT = 5e-5;
    /**
     * Bfloat16 against bfloat16 in double sums: where a value falls on the neighbour, it is off by 2⁻⁸, and so are some of
     * the dozen roundings of each of three layers; the loss is a mean over a hundred rows.
     */
    static final double BF16_LOSS = 0.005;
    static final double BF16_GRADIENT = 0.05;
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

    private static Path model(String kind, Random random) throws IOException {
        return TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "model"), kind, random);
    }

    /** Sequences shorter than a tile, of one, and longer than a window. */
    private TokenBatch batch() {
        return TinyModels.labelled(TinyModels.sequences(random, 33, 4, 70, 19));
    }

    private static Step adapterStep(Backend backend, Path model, DType type, boolean nf4, TokenBatch batch, double p,
            LossOptions options) {
        Decoder decoder = TinyModels.load(model, backend, type, nf4);
        try (Adapter adapter = TinyModels.adapter(decoder, 0, 8, 5)) {
            return TinyModels.step(decoder, adapter.parameters(), batch, TinyModels.training(backend, 0, p), options,
                    null, null);
        }
    }

    private static void expectClose(Step actual, Step expected, double lossLimit, double gradientLimit) {
        System.out.printf("loss %.6f, off by %.1e of it, gradients off by %.1e%n", actual.loss(),
                Math.abs(actual.loss() - expected.loss()) / expected.loss(), expected.distance(actual));
        assertThat(Math.abs(actual.loss() - expected.loss())).isLessThanOrEqualTo(lossLimit * expected.loss());
        assertThat(expected.distance(actual)).isPositive().isLessThanOrEqualTo(gradientLimit);
    }

    @ParameterizedTest
    @CsvSource({"llama,true,0", "llama,false,0.3", "llama3,true,0", "mistral,true,0.1", "qwen2,true,0", "qwen3,true,0"})
    void stepInFloat32(String kind, boolean nf4, double dropout) throws IOException {
        Path model = model(kind, random);
        TokenBatch batch = batch();
        expectClose(adapterStep(CUDA, model, DType.F32, nf4, batch, dropout, PLAIN),
                adapterStep(SCALAR, model, DType.F32, nf4, batch, dropout, PLAIN), F32_LIMIT, F32_LIMIT);
    }

    @ParameterizedTest
    @CsvSource({"llama,true,0", "llama,false,0.3", "mistral,true,0.1", "qwen2,true,0", "qwen3,true,0"})
    void stepInBfloat16(String kind, boolean nf4, double dropout) throws IOException {
        Path model = model(kind, random);
        TokenBatch batch = batch();
        expectClose(adapterStep(CUDA, model, DType.BF16, nf4, batch, dropout, PLAIN),
                adapterStep(SCALAR, model, DType.BF16, nf4, batch, dropout, PLAIN), BF16_LOSS, BF16_GRADIENT);
    }

    @ParameterizedTest
    @CsvSource({"llama,F32", "mistral,BF16", "qwen3,BF16"})
    void checkpointingAndRepeatingChangeNoBit(String kind, DType type) throws IOException {
        Path model = model(kind, random);
        TokenBatch batch = batch();
        Step plain = adapterStep(CUDA, model, type, true, batch, 0.3, PLAIN);
        assertThat(plain.loss()).isFinite();
        assertThat(plain.sameBits(adapterStep(CUDA, model, type, true, batch, 0.3, PLAIN))).as("again").isTrue();
        assertThat(plain.sameBits(adapterStep(CUDA, model, type, true, batch, 0.3, CHECKPOINTING)))
                .as("with checkpointing").isTrue();
        assertThat(plain.sameBits(adapterStep(CUDA, model, type, true, batch, 0, PLAIN))).as("dropout took part")
                .isFalse();
    }

    /** With sums of products and SwiGLU in one at all sizes; where layers run twice, gate and up are written once only. */
    @ParameterizedTest
    @CsvSource({"llama,0", "qwen2,0", "llama,0.2"})
    void sumsOfProducts(String kind, double p) throws IOException {
        Path model = model(kind, random);
        TokenBatch batch = batch();
        try (Twins twins = Twins.with(SummedProducts.PROPERTY, "always")) {
            Step step = adapterStep(twins.cuda, model, DType.BF16, true, batch, p, PLAIN);
            expectClose(step, adapterStep(SCALAR, model, DType.BF16, true, batch, p, PLAIN), BF16_LOSS, BF16_GRADIENT);
            assertThat(step.sameBits(adapterStep(twins.cuda, model, DType.BF16, true, batch, p, CHECKPOINTING)))
                    .as("with checkpointing").isTrue();
        }
    }

    /** The arena is full of NaN, so that nothing is read before it is written; then it holds another step's rests. */
    @ParameterizedTest
    @CsvSource({"F32,false", "BF16,true"})
    void plannedStepsEqualUnplannedOnes(DType type, boolean checkpointing) throws IOException {
        Decoder decoder = TinyModels.load(model("mistral", random), CUDA, type, true);
        LossOptions options = new LossOptions(true, checkpointing);
        Adapters use = TinyModels.training(CUDA, 0, 0.2);
        TokenBatch large = batch();
        TokenBatch small = TinyModels.labelled(TinyModels.sequences(random, 11, 5, 3, 9));
        try (Adapter adapter = TinyModels.adapter(decoder, 0, 8, 7)) {
            ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, TokenBatch.largest(4, 70), use, options,
                    Tensor.shapeOnly(DType.F32, 1), Tensor.shapeOnly(DType.F64, 1), null));
            try (Allocation arena = CUDA.allocate(plan.bytes(), MemoryUse.ACTIVATIONS)) {
                Tensor nan = Tensor.zeros(DType.U8, plan.bytes());
                nan.data().fill((byte) 0xff);
                CUDA.upload(nan, arena.tensor(0, DType.U8, plan.bytes()));
                for (TokenBatch b : new TokenBatch[]{large, small, large}) {
                    Step free = TinyModels.step(decoder, adapter.parameters(), b, use, options, null, null);
                    Step planned = TinyModels.step(decoder, adapter.parameters(), b, use, options, plan, arena);
                    assertThat(planned.loss()).isFinite();
                    assertThat(planned.sameBits(free)).isTrue();
                }
            }
        }
    }

    /** All weights trained: gradients of embedding, norms, biases and head too. */
    @ParameterizedTest
    @ValueSource(strings = {"llama", "qwen2", "qwen3"})
    void gradientsOfTrainedWeights(String kind) throws IOException {
        DecoderConfig config = DecoderConfig.read(model(kind, random).resolve(DecoderConfig.FILE));
        TokenBatch batch = batch();
        Step[] steps = new Step[2];
        try (TrainableWeights host = new TrainableWeights(config, SCALAR);
                TrainableWeights device = new TrainableWeights(config, CUDA)) {
            host.initialize(config, 0.7, 0.2, Gpu.SEED);
            CUDA.upload(host.store().flatParams(), device.store().flatParams());
            steps[0] = TinyModels.step(new Decoder(config, SCALAR, DType.F32, host), host.store(), batch, Adapters.NONE,
                    PLAIN, null, null);
            steps[1] = TinyModels.step(new Decoder(config, CUDA, DType.F32, device), device.store(), batch,
                    Adapters.NONE, PLAIN, null, null);
        }
        expectClose(steps[1], steps[0], F32_LIMIT, F32_LIMIT);
        steps[0].grads().forEach((name, grad) -> {
            double most = 0;
            double off = 0;
            for (long i = 0; i < grad.size(); i++) {
                most = Math.max(most, Math.abs(grad.get(i)));
                off = Math.max(off, Math.abs(grad.get(i) - steps[1].grads().get(name).get(i)));
            }
            // A key's bias has a gradient of what rotation leaves over: its rounding is that of larger terms.
            assertThat(off).as(name).isLessThanOrEqualTo(10 * F32_LIMIT * most + 1e-6);
        });
    }

    /** Two contexts at once, in turns: each gives what it gives alone. */
    @Test
    void twoContexts() throws IOException {
        Path model = model("llama", random);
        TokenBatch batch = batch();
        Step alone = adapterStep(CUDA, model, DType.F32, true, batch, 0, PLAIN);
        try (Backend other = Gpu.openSeparate()) {
            Decoder first = TinyModels.load(model, CUDA, DType.F32, true);
            Decoder second = TinyModels.load(model, other, DType.F32, true);
            try (Adapter a = TinyModels.adapter(first, 0, 8, 5); Adapter b = TinyModels.adapter(second, 0, 8, 5)) {
                for (int i = 0; i < 2; i++) {
                    Step onSecond = TinyModels.step(second, b.parameters(), batch,
                            TinyModels.training(other, 0, 0), PLAIN, null, null);
                    Step onFirst = TinyModels.step(first, a.parameters(), batch, TinyModels.training(CUDA, 0, 0),
                            CHECKPOINTING, null, null);
                    assertThat(onSecond.sameBits(alone)).isTrue();
                    assertThat(onFirst.sameBits(alone)).isTrue();
                }
            }
        }
    }
}
