package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.model.ModelMerger.Into;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Philox;

/** A merged model computes what the model with its adapter does. */
class ModelMergerTest {
    private static final TokenBatch BATCH = TokenBatch.of(TinyModel.sequences(1, 6, 9));
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @TempDir
    Path directory;

    @AfterAll
    static void close() {
        CPU.close();
    }

    /** Writes an adapter whose every parameter differs from the initial one, and returns its model's logits. */
    private List<float[]> adapter(DecoderConfig config, Path base, boolean nf4, boolean dora, boolean whole,
            String trainedOn) throws IOException {
        Decoder decoder = TinyModel.load(base.resolve("model.safetensors"), config, CPU, DType.F32, nf4);
        LoraConfig lora = new LoraConfig(3, 6, 0, List.of("q_proj", "down_proj"), trainedOn, 5).withVariant(true, dora)
                .withTrained(whole ? LoraConfig.Bias.ALL : LoraConfig.Bias.NONE,
                        whole ? List.of("lm_head", "norm") : List.of());
        try (Adapter adapter = Adapter.create(decoder, 0, lora)) {
            Philox.Sequence rng = new Philox.Sequence(4, 0, 0);
            for (ParameterStore.Parameter p : adapter.parameters().all()) {
                for (long i = 0; i < p.value().size(); i++) {
                    p.value().set(i, p.value().get(i) + 0.1 * rng.nextGaussian());
                }
            }
            adapter.save(directory.resolve("adapter"));
        }
        try (Adapter adapter = Adapter.load(decoder, 0, directory.resolve("adapter"), false)) {
            return TinyModel.logits(decoder, BATCH, adapter.use());
        }
    }

    private static double largest(List<float[]> a, List<float[]> b) {
        double worst = 0;
        for (int i = 0; i < a.size(); i++) {
            for (int j = 0; j < a.get(i).length; j++) {
                worst = Math.max(worst, Math.abs(a.get(i)[j] - b.get(i)[j]));
            }
        }
        return worst;
    }

    private List<float[]> merge(Path base, Into into, DType dtype, double[] ratios) throws IOException {
        Path target = directory.resolve("merged");
        try (ModelDirectory source = ModelDirectory.open(base);
                ModelMerger merger = new ModelMerger(source, directory.resolve("adapter"), into, dtype, CPU)) {
            List<ModelMerger.Layer> layers = merger.measure(layer -> assertThat(target).doesNotExist());
            assertThat(layers).hasSize(4);
            assertThat(layers).allMatch(l -> l.delta() > 0);
            ratios[0] = layers.stream().mapToDouble(ModelMerger.Layer::ratio).max().orElseThrow();
            merger.write(target);
        }
        try (ModelDirectory merged = ModelDirectory.open(target)) {
            Decoder decoder = DecoderLoader.DENSE.load(merged.config(), merged.weights(), CPU);
            return TinyModel.logits(decoder, BATCH, Adapters.NONE);
        }
    }

    /** Some dozen float32 roundings a layer of values of magnitude ten: 1e-4. */
    @ParameterizedTest
    @CsvSource({"llama,DENSE,false,false", "llama,DEQUANTIZED,true,true", "qwen2,DENSE,true,true",
            "qwen3,DEQUANTIZED,false,true"})
    void computesTheSame(String name, Into into, boolean dora, boolean whole) throws IOException {
        DecoderConfig config = TinyModel.named(name);
        Path base = TinyModel.directory(directory, config);
        List<float[]> expected = adapter(config, base, into != Into.DENSE, dora, whole, base.toString());
        double[] ratio = {Double.NaN};
        assertThat(largest(merge(base, into, DType.F32, ratio), expected)).isLessThanOrEqualTo(1e-4);
        assertThat(ratio[0]).isLessThanOrEqualTo(1e-5);
    }

    @Test
    void sixteenAndFourBitsLoseMoreAndSaySo() throws IOException {
        Path base = TinyModel.directory(directory, TinyModel.LLAMA);
        List<float[]> expected = adapter(TinyModel.LLAMA, base, true, false, false, base.toString());
        double[] ratio = {Double.NaN};
        assertThat(largest(merge(base, Into.DEQUANTIZED, DType.BF16, ratio), expected)).isBetween(1e-4, 0.2);
        assertThat(ratio[0]).isBetween(1e-4, 0.05);
        double sixteen = ratio[0];
        Files.move(directory.resolve("merged"), directory.resolve("sixteen"));
        assertThat(largest(merge(base, Into.REQUANTIZED, null, ratio), expected)).isGreaterThan(0.01);
        assertThat(ratio[0]).isGreaterThan(10 * sixteen);
        try (ModelDirectory merged = ModelDirectory.open(directory.resolve("merged"))) {
            assertThat(merged.config().quantization()).isNotNull();
            assertThat(ModelTensors.isPacked(merged.weights(), "model.layers.0.mlp.down_proj.weight")).isTrue();
        }
        // A 4-bit model has no dense weights.
        try (ModelDirectory merged = ModelDirectory.open(directory.resolve("merged"))) {
            assertThatThrownBy(() -> new ModelMerger(merged, directory.resolve("adapter"), Into.DENSE, null, CPU))
                    .isInstanceOf(ModelFormatException.class).hasMessageContaining("--into dequantized");
            assertThatThrownBy(() -> {
                try (ModelMerger merger = new ModelMerger(merged, directory.resolve("adapter"), null, null, CPU)) {
                    assertThat(merger.into()).isEqualTo(Into.DEQUANTIZED);
                    merger.write(directory.resolve("merged"));
                }
            }).hasMessageContaining("a model is there already");
        }
    }

    @Test
    void anotherBaseIsDoubted() throws IOException {
        Path base = TinyModel.directory(directory, TinyModel.LLAMA);
        adapter(TinyModel.LLAMA, base, false, false, false, "someone/other-model");
        try (ModelDirectory source = ModelDirectory.open(base);
                ModelMerger merger = new ModelMerger(source, directory.resolve("adapter"), null, null, CPU)) {
            assertThat(merger.doubt()).hasValueSatisfying(why -> assertThat(why).contains("someone/other-model",
                    base.toString()));
        }
        adapter(TinyModel.LLAMA, base, false, false, false, "somewhere/base");
        try (ModelDirectory source = ModelDirectory.open(base);
                ModelMerger merger = new ModelMerger(source, directory.resolve("adapter"), null, null, CPU)) {
            assertThat(merger.doubt()).isEmpty();
        }
    }
}
