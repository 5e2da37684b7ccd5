package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The whole model's loss and gradients: against differences, and the same under recomputation and plans. */
class DecoderTrainingTest {
    private static final double STEP = 1e-5;
    private static final LossOptions PLAIN = new LossOptions(true, false);
    private static final LossOptions CHECKPOINTING = new LossOptions(true, true);
    private static final TokenBatch BATCH = TinyModel.labelled(TinyModel.sequences(1, 6, 3, 9));
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @TempDir
    private static Path directory;

    @BeforeAll
    static void write() throws IOException {
        for (String model : List.of("llama", "windowed", "qwen2", "qwen3")) {
            TinyModel.write(file(model), TinyModel.named(model));
        }
    }

    private static Path file(String model) {
        return directory.resolve(model + ".safetensors");
    }

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    private static Backend backend(String name) {
        return name.equals(Backend.SCALAR) ? SCALAR : CPU;
    }

    private static Adapters training(int slot, double p) {
        Dropout d = p == 0 ? null : new Dropout(p, 17, Tensor.of(new int[]{3}, 1), null, null);
        return new Adapters(slot, null, d);
    }

    /**
     * In float64 with a step of 1e-5 a difference of the loss (magnitude 4) is off by rounding of some 1e-15 / 1e-5 and
     * by the third derivative times 1e-10 / 6: below 1e-8 with room, where gradients are of magnitude 1e-2.
     */
    @ParameterizedTest
    @CsvSource({"llama,0,false", "llama,0.2,true", "windowed,0.2,false", "qwen2,0,false", "qwen3,0.2,true",
            "qwen3,0,false"})
    void gradientsOfAnAdapterOnA4BitBase(String model, double p, boolean checkpointing) {
        Decoder decoder = TinyModel.load(file(model), TinyModel.named(model), SCALAR, DType.F64, true);
        try (Stream s = SCALAR.openStream(); Adapter adapter = TinyModel.adapter(decoder, 0, 2, 5)) {
            Adapters use = training(0, p);
            TinyModel.loss(s, decoder, BATCH, use, checkpointing ? CHECKPOINTING : PLAIN);
            double largest = 0;
            for (ParameterStore.Parameter parameter : adapter.parameters().all()) {
                Tensor value = parameter.value();
                for (long i : new long[]{0, value.size() / 2, value.size() - 1}) {
                    double was = value.get(i);
                    value.set(i, was + STEP);
                    double above = TinyModel.loss(s, decoder, BATCH, use, LossOptions.EVALUATE);
                    value.set(i, was - STEP);
                    double below = TinyModel.loss(s, decoder, BATCH, use, LossOptions.EVALUATE);
                    value.set(i, was);
                    double expected = (above - below) / (2 * STEP);
                    assertThat(Math.abs(parameter.grad().get(i) - expected))
                            .as("%s %d: %s and %s", parameter.name(), i, parameter.grad().get(i), expected)
                            .isLessThanOrEqualTo(1e-8);
                    largest = Math.max(largest, Math.abs(expected));
                }
            }
            assertThat(largest).as("the gradients compared are no zeros").isGreaterThan(1e-2);
        }
    }

    /** Biases, embedding, head and norms of the adapter's own; where the head was tied it has parted. */
    @ParameterizedTest
    @CsvSource({"qwen2,ALL", "llama,LORA_ONLY", "qwen3,NONE"})
    void gradientsOfBiasesAndWholeModules(String model, LoraConfig.Bias bias) {
        Decoder decoder = TinyModel.load(file(model), TinyModel.named(model), SCALAR, DType.F64, true);
        LoraConfig config = new LoraConfig(2, 4, 0, List.of("q_proj", "up_proj"), null, 5).withTrained(bias,
                List.of("embed_tokens", "lm_head", "norm"));
        double base;
        try (Stream s = SCALAR.openStream()) {
            base = TinyModel.loss(s, decoder, BATCH, Adapters.NONE, LossOptions.EVALUATE);
        }
        try (Stream s = SCALAR.openStream(); Adapter adapter = Adapter.create(decoder, 0, config)) {
            Adapters use = adapter.use();
            assertThat(TinyModel.loss(s, decoder, BATCH, use, CHECKPOINTING)).as("it changes nothing yet")
                    .isEqualTo(base);
            int biases = 0;
            for (ParameterStore.Parameter p : adapter.parameters().all()) {
                if (p.name().contains("lora_")) {
                    continue;
                }
                biases += p.name().endsWith(".bias") ? 1 : 0;
                long at = 0;
                for (long i = 0; i < p.grad().size(); i++) {
                    at = Math.abs(p.grad().get(i)) > Math.abs(p.grad().get(at)) ? i : at;
                }
                double was = p.value().get(at);
                p.value().set(at, was + STEP);
                double above = TinyModel.loss(s, decoder, BATCH, use, LossOptions.EVALUATE);
                p.value().set(at, was - STEP);
                double below = TinyModel.loss(s, decoder, BATCH, use, LossOptions.EVALUATE);
                p.value().set(at, was);
                assertThat(p.grad().get(at)).as(p.name()).isNotZero();
                // As above, with gradients up to one.
                assertThat(Math.abs(p.grad().get(at) - (above - below) / (2 * STEP))).as("%s %d", p.name(), at)
                        .isLessThanOrEqualTo(1e-7);
            }
            assertThat(biases).isEqualTo(model.equals("qwen2") ? 6 : model.equals("llama") ? 4 : 0);
            assertThat(TinyModel.loss(s, decoder, BATCH, Adapters.NONE, LossOptions.EVALUATE)).as("the base stays")
                    .isEqualTo(base);
        }
    }

    /** Loss and all gradients of one step, bit for bit. */
    private record Step(double loss, Tensor grads) {
        static Step of(Decoder decoder, Adapter adapter, java.util.function.ToDoubleFunction<Stream> run) {
            try (Stream s = decoder.backend().openStream()) {
                adapter.parameters().zeroGrads(s);
                double loss = run.applyAsDouble(s);
                Tensor grads = adapter.parameters().flatGrads();
                return new Step(loss, Tensor.zeros(grads.dtype(), grads.shape()).copyFrom(grads));
            }
        }

        void isBitForBit(Step other) {
            assertThat(loss).isFinite();
            assertThat(Double.doubleToRawLongBits(loss)).isEqualTo(Double.doubleToRawLongBits(other.loss));
            assertThat(grads.data().mismatch(other.grads.data())).isEqualTo(-1);
            double sum = 0;
            for (long i = 0; i < grads.size(); i++) {
                sum += Math.abs(grads.get(i));
            }
            assertThat(sum).isFinite().isPositive();
        }
    }

    @ParameterizedTest
    @CsvSource({"llama,scalar,F32", "llama,cpu,F32", "llama,cpu,BF16", "llama,scalar,F64", "qwen3,cpu,F32"})
    void checkpointingChangesNoBit(String model, String backend, DType type) {
        Decoder decoder = TinyModel.load(file(model), TinyModel.named(model), backend(backend), type, true);
        try (Adapter adapter = TinyModel.adapter(decoder, 0, 3, 6)) {
            Adapters use = training(0, 0.3);
            Step plain = Step.of(decoder, adapter, s -> TinyModel.loss(s, decoder, BATCH, use, PLAIN));
            Step again = Step.of(decoder, adapter, s -> TinyModel.loss(s, decoder, BATCH, use, CHECKPOINTING));
            again.isBitForBit(plain);
            Step without = Step.of(decoder, adapter, s -> TinyModel.loss(s, decoder, BATCH, training(0, 0), PLAIN));
            assertThat(without.loss()).as("dropout took part").isNotEqualTo(plain.loss());
        }
    }

    /** The arena is full of NaN, so that nothing is read before it is written; then it holds another step's rests. */
    @ParameterizedTest
    @CsvSource({"windowed,scalar,F32,false", "windowed,cpu,F32,true", "windowed,cpu,BF16,false", "qwen3,cpu,F32,true",
            "qwen3,scalar,F32,false"})
    void plannedStepsEqualUnplannedOnes(String model, String backend, DType type, boolean checkpointing) {
        Decoder decoder = TinyModel.load(file(model), TinyModel.named(model), backend(backend), type, true);
        LossOptions options = new LossOptions(true, checkpointing);
        Adapters use = training(0, 0.3);
        TokenBatch smaller = TinyModel.labelled(TinyModel.sequences(2, 4, 5));
        try (Adapter adapter = TinyModel.adapter(decoder, 0, 3, 7)) {
            Step large = Step.of(decoder, adapter, s -> TinyModel.loss(s, decoder, BATCH, use, options));
            Step small = Step.of(decoder, adapter, s -> TinyModel.loss(s, decoder, smaller, use, options));
            ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, TokenBatch.largest(3, 9), use, options,
                    Tensor.shapeOnly(DType.F32, 1), Tensor.shapeOnly(DType.F64, 1), null));
            try (Allocation arena = decoder.backend().allocate(plan.bytes(), MemoryUse.ACTIVATIONS)) {
                arena.data().fill((byte) 0xff);
                planned(decoder, adapter, plan, arena, BATCH, use, options).isBitForBit(large);
                planned(decoder, adapter, plan, arena, smaller, use, options).isBitForBit(small);
                planned(decoder, adapter, plan, arena, BATCH, use, options).isBitForBit(large);
                TokenBatch tooLarge = TinyModel.labelled(TinyModel.sequences(3, 12, 12, 12));
                assertThatThrownBy(() -> planned(decoder, adapter, plan, arena, tooLarge, use, options))
                        .isInstanceOf(IllegalStateException.class).hasMessageContaining("plan");
            }
        }
    }

    private static Step planned(Decoder decoder, Adapter adapter, ArenaPlan plan, Allocation arena, TokenBatch batch,
            Adapters use, LossOptions options) {
        return Step.of(decoder, adapter, s -> {
            s.begin(plan, arena);
            double loss = TinyModel.loss(s, decoder, batch, use, options);
            s.end();
            return loss;
        });
    }

    /** As far as bfloat16 goes: eight bits in a handful of roundings a layer. */
    @Test
    void bfloat16Trains() {
        double[] loss = new double[2];
        Tensor[] grads = new Tensor[2];
        for (int t = 0; t < 2; t++) {
            Decoder decoder =
                    TinyModel.load(file("llama"), TinyModel.LLAMA, CPU, t == 0 ? DType.F32 : DType.BF16, false);
            try (Adapter adapter = TinyModel.adapter(decoder, 0, 3, 6)) {
                Step step = Step.of(decoder, adapter,
                        s -> TinyModel.loss(s, decoder, BATCH, training(0, 0), PLAIN));
                loss[t] = step.loss();
                grads[t] = step.grads();
            }
        }
        assertThat(Math.abs(loss[1] - loss[0])).isLessThanOrEqualTo(0.02 * loss[0]);
        double difference = 0;
        double norm = 0;
        for (long i = 0; i < grads[0].size(); i++) {
            difference += Math.pow(grads[1].get(i) - grads[0].get(i), 2);
            norm += Math.pow(grads[0].get(i), 2);
        }
        assertThat(difference).isPositive();
        assertThat(Math.sqrt(difference / norm)).isLessThanOrEqualTo(0.1);
    }

    @Test
    void aBatchWithoutLabelsHasNoLoss() {
        Decoder decoder = TinyModel.load(file("llama"), TinyModel.LLAMA, CPU, DType.F32, true);
        TokenBatch none = TinyModel.labelled(TinyModel.sequences(1, 2));
        try (Stream s = CPU.openStream()) {
            assertThatIllegalArgumentException().isThrownBy(() -> decoder.loss(s, none, Adapters.NONE, PLAIN,
                    Tensor.zeros(DType.F32, 1), Tensor.zeros(DType.F64, 1), null)).withMessageContaining("label");
        }
    }

    /**
     * All weights trained, in float32 on the scalar backend: the element of the largest gradient in each tensor. With a
     * step of 1e-2 the loss's rounding, a few 1e-7 times 4, gives 1e-4 at most; the third derivative times 1e-4 / 6 a
     * share that a hundredth of the gradient and 5e-4 cover.
     */
    @ParameterizedTest
    @CsvSource({"llama", "tied", "qwen2", "qwen3"})
    void gradientsOfTrainedWeights(String model) {
        DecoderConfig config = TinyModel.named(model);
        double step = 1e-2;
        try (TrainableWeights weights = new TrainableWeights(config, SCALAR); Stream s = SCALAR.openStream()) {
            weights.initialize(config, 0.7, 0.2, 11);
            Decoder decoder = new Decoder(config, SCALAR, DType.F32, weights);
            TinyModel.loss(s, decoder, BATCH, Adapters.NONE, PLAIN);
            for (ParameterStore.Parameter p : weights.store().all()) {
                long at = 0;
                for (long i = 0; i < p.grad().size(); i++) {
                    at = Math.abs(p.grad().get(i)) > Math.abs(p.grad().get(at)) ? i : at;
                }
                double was = p.value().get(at);
                p.value().set(at, was + step);
                double above = TinyModel.loss(s, decoder, BATCH, Adapters.NONE, LossOptions.EVALUATE);
                p.value().set(at, was - step);
                double below = TinyModel.loss(s, decoder, BATCH, Adapters.NONE, LossOptions.EVALUATE);
                p.value().set(at, was);
                double expected = (above - below) / (2 * step);
                assertThat(Math.abs(p.grad().get(at) - expected))
                        .as("%s %d: %s and %s", p.name(), at, p.grad().get(at), expected)
                        .isLessThanOrEqualTo(0.01 * Math.abs(expected) + 5e-4);
                // A key's bias shifts all of a query's scores alike but for the rotation, so its gradient is small.
                assertThat(Math.abs(p.grad().get(at))).as(p.name()).isGreaterThan(1e-4);
            }
        }
    }
}
