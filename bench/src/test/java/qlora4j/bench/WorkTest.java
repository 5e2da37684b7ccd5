package qlora4j.bench;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ShapeWeights;
import qlora4j.tensor.DType;
import qlora4j.tensor.PlanBackend;

class WorkTest {
    /** The decoder itself, without memory, says what the formulas must give. */
    @ParameterizedTest
    @ValueSource(strings = {"tiny", "smollm2-135m", "mistral-7b", "llama-2-70b"})
    void parametersAreThoseOfTheDecoder(String shape) {
        DecoderConfig c = Shapes.named(shape);
        try (PlanBackend plan = new PlanBackend()) {
            Decoder decoder = new Decoder(c, plan, DType.F32, new ShapeWeights(plan, DType.F32, QuantConfig.QLORA));
            assertThat(Work.linearParameters(c)).isEqualTo(decoder.linears().values().stream()
                    .mapToLong(l -> (long) l.outFeatures() * l.inFeatures()).sum());
            Adapter adapter = Adapter.create(decoder, 0,
                    new LoraConfig(16, 16, 0, List.of(LoraConfig.ALL_LINEAR), null, 0));
            assertThat(Work.loraParameters(c, 16)).isEqualTo(adapter.parameters().parameters());
        }
    }

    /** What PEFT prints for SmolLM2-135M, r = 16, all-linear. */
    @Test
    void trainableParametersOfSmolLm2() {
        assertThat(Work.loraParameters(Shapes.named("smollm2-135m"), 16)).isEqualTo(4_884_480);
    }

    @Test
    void attentionCountsTheKeysThatAQuerySees() {
        DecoderConfig c = Shapes.named("tiny");
        double perKey = 2.0 * 2 * c.layers() * c.heads() * c.headDim();
        assertThat(Work.attention(c, 0, 4)).isEqualTo(perKey * (1 + 2 + 3 + 4));
        assertThat(Work.attention(c, 3, 5)).isEqualTo(perKey * (4 + 5));
        DecoderConfig windowed = Shapes.named("mistral-7b");
        double each = 4.0 * windowed.layers() * windowed.heads() * windowed.headDim();
        assertThat(Work.attention(windowed, 5000, 5001)).isEqualTo(each * 4096);
    }

    /** Counted by hand for one layer's shape: hidden 64, intermediate 128, 2 heads and 1 key/value head of 32. */
    @Test
    void stepOfTheTinyShape() {
        DecoderConfig c = Shapes.named("tiny");
        long linear = 2 * (64 * 64 + 32 * 64 + 32 * 64 + 64 * 64 + 3 * 64 * 128);
        long lora = 2 * 8 * (128 + 96 + 96 + 128 + 3 * 192);
        double tokens = 20;
        double head = 2.0 * (20 - 2) * 256 * 64;
        double attention = 2 * Work.attention(c, 0, 10);
        double plain = 2 * tokens * (2 * linear + 3 * lora) + 3.5 * attention + 2 * head;
        assertThat(Work.step(c, 8, 2, 10, false)).isEqualTo(plain);
        double again = 2 * tokens * (linear + lora) + attention - 2 * 2 * tokens * 64 * 128;
        assertThat(Work.step(c, 8, 2, 10, true)).isEqualTo(plain + again);
    }

    @Test
    void decodingReadsWeightsHeadAndCache() {
        DecoderConfig c = Shapes.named("tiny");
        assertThat(Work.decodeBytes(c, 1000, 500, 4, 10)).isEqualTo(1000 + 500 + 2 * 2 * 32 * 4 * 10);
    }

    @Test
    void prefillPutsOneRowThroughTheHead() {
        DecoderConfig c = Shapes.named("tiny");
        assertThat(Work.prefill(c, 7))
                .isEqualTo(2.0 * 7 * Work.linearParameters(c) + Work.attention(c, 0, 7) + 2.0 * 256 * 64);
    }
}
