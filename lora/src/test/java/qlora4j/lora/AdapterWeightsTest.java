package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.lora.LoraConfig.Init;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** An adapter that began with a part of the weights, converted to one for the base as it was. */
class AdapterWeightsTest {
    private static final int R = 2;
    private static final int IN = 3;
    private static final int OUT = 5;

    private static Tensor random(Random random, int rows, int cols) {
        return Tensor.of(random.doubles((long) rows * cols, -1, 1).toArray(), rows, cols);
    }

    private static AdapterWeights weights(Random random, Tensor magnitude) {
        return new AdapterWeights(random(random, R, IN), random(random, OUT, R), magnitude);
    }

    private static double product(AdapterWeights w, int o, int i) {
        double sum = 0;
        for (int k = 0; k < w.a().rows(); k++) {
            sum += w.b().get((long) o * w.a().rows() + k) * w.a().get((long) k * IN + i);
        }
        return sum;
    }

    @Test
    void twiceTheRankHoldsTheDifference() {
        Random random = new Random(7);
        AdapterWeights first = weights(random, null);
        AdapterWeights now = weights(random, Tensor.zeros(DType.F64, OUT));
        AdapterWeights both = now.since(first);
        assertThat(both.a().shape()).containsExactly(2 * R, IN);
        assertThat(both.b().shape()).containsExactly(OUT, 2 * R);
        assertThat(both.magnitude()).isSameAs(now.magnitude());
        assertThat(PeftAdapter.same(both.a().rows(0, R), now.a())).as("what was trained comes first").isTrue();
        for (int o = 0; o < OUT; o++) {
            for (int i = 0; i < IN; i++) {
                // Four terms of at most 1, a rounding each.
                assertThat(product(both, o, i)).isCloseTo(product(now, o, i) - product(first, o, i), within(1e-14));
            }
        }
    }

    /** PEFT: r and alpha doubled, alpha times √2 with rank-stabilized scales, in the patterns too. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void itsConfigurationKeepsEveryScale(boolean stabilized) {
        LoraConfig config = new LoraConfig(4, 6, 0.1, List.of("q_proj", "v_proj"), "base", 3)
                .withPatterns(Map.of("v_proj", 3), Map.of("q_proj", 5.0)).withVariant(stabilized, false)
                .withInit(new Init(Init.Kind.PISSA, 0));
        LoraConfig twice = config.forOriginalBase();
        assertThat(twice.init()).isEqualTo(Init.KAIMING);
        for (String module : List.of("m.q_proj", "m.v_proj", "m.k_proj")) {
            assertThat(twice.rank(module)).isEqualTo(2 * config.rank(module));
            assertThat(twice.scale(module)).as(module).isCloseTo(config.scale(module), within(1e-12));
        }
        assertThat(config.withRank(9).rank("m.k_proj")).isEqualTo(9);
    }

    @Test
    void initialValuesHaveNames() {
        assertThat(Init.named("True", 1)).hasToString("true");
        assertThat(Init.named("gaussian", 1)).hasToString("gaussian");
        assertThat(Init.named("pissa", 1)).hasToString("pissa");
        assertThat(Init.named("pissa_niter_4", 1)).hasToString("pissa_niter_4");
        assertThat(Init.named("loftq", 1)).hasToString("loftq");
        assertThat(Init.named("loftq", 3)).hasToString("loftq in 3 turns");
        assertThat(List.of("true", "gaussian", "pissa", "pissa_niter_4", "loftq").stream()
                .map(n -> Init.named(n, 1)).filter(Init::changesBase)).hasSize(2);
        assertThat(Init.named("loftq", 2).changesBase()).isTrue();
        assertThat(new Init(Init.Kind.GAUSSIAN, 5).changesBase()).isFalse();
        assertThat(new Init(Init.Kind.GAUSSIAN, 5)).hasToString("gaussian");
        assertThat(LoraConfig.Patterns.NONE.isEmpty()).isTrue();
        assertThat(new LoraConfig.Patterns(Map.of("q", 1), Map.of()).isEmpty()).isFalse();
        assertThat(new LoraConfig.Patterns(Map.of(), Map.of("q", 1.0)).isEmpty()).isFalse();
    }
}
