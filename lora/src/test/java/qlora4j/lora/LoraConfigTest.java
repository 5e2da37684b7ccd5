package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Collection;
import java.util.List;
import org.junit.jupiter.api.Test;

class LoraConfigTest {
    private static final List<String> LINEARS = List.of("model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj");

    private static LoraConfig config(int rank, double alpha, double dropout, String... targets) {
        return new LoraConfig(rank, alpha, dropout, List.of(targets), null, 0);
    }

    @Test
    void errorsNameTheFlag() {
        refused(() -> config(0, 16, 0, "q_proj"), "--lora-r 0");
        for (double alpha : new double[]{0, -1, Double.NaN, Double.POSITIVE_INFINITY}) {
            refused(() -> config(8, alpha, 0, "q_proj"), "--lora-alpha " + alpha);
        }
        for (double dropout : new double[]{-0.1, 1, Double.NaN}) {
            refused(() -> config(8, 16, dropout, "q_proj"), "--lora-dropout " + dropout);
        }
        refused(() -> config(8, 16, 0), "--target-modules");
        refused(() -> config(8, 16, 0, " "), "--target-modules: a name is empty");
        refused(() -> config(8, 16, 0, "q_proj", "q_proj"), "--target-modules: q_proj is given twice");
        refused(() -> config(8, 16, 0, "q_proj", "all-linear"), "--target-modules: all-linear already");
    }

    private static void refused(Runnable action, String message) {
        assertThatThrownBy(action::run).isInstanceOf(IllegalArgumentException.class).hasMessageStartingWith(message);
    }

    @Test
    void scaleIsAlphaOverRank() {
        assertThat(config(64, 16, 0, "q_proj").scale()).isEqualTo(0.25);
    }

    @Test
    void targetsMatchWholePartsOfAPath() {
        Collection<String> q = List.of(LINEARS.get(0), LINEARS.get(2));
        assertThat(TargetModules.resolve(config(8, 16, 0, "q_proj"), LINEARS)).isEqualTo(q);
        assertThat(TargetModules.resolve(config(8, 16, 0, "self_attn.q_proj"), LINEARS)).isEqualTo(q);
        assertThat(TargetModules.resolve(config(8, 16, 0, LINEARS.get(3), "q_proj"), LINEARS))
                .containsExactly(LINEARS.get(0), LINEARS.get(2), LINEARS.get(3));
        assertThat(TargetModules.resolve(config(8, 16, 0, "all-linear"), LINEARS)).isEqualTo(LINEARS);
    }

    @Test
    void aTargetThatMeansNothingIsAnError() {
        for (String target : List.of("proj", "_proj", "k_proj", "self_attn", "", "q_proj.")) {
            refused(() -> TargetModules.resolve(List.of("up_proj", target), LINEARS), "--target-modules: no linear"
                    + " layer is called " + target + "; the names are [q_proj, up_proj], or all-linear");
        }
    }

    @Test
    void reportIsPeftsLine() {
        ParameterReport report = new ParameterReport(1_234_567, 1_000_000_000, 515_875_000);
        assertThat(report.line()).isEqualTo("trainable params: 1,234,567 || all params: 1,001,234,567 || "
                + "trainable%: 0.1233 || base bits/param: 4.1270");
        assertThat(report.total()).isEqualTo(1_001_234_567);
        assertThat(report.percent()).isEqualTo(100.0 * 1_234_567 / 1_001_234_567);
        assertThat(report.bitsPerParameter()).isEqualTo(4.127);
        assertThat(new ParameterReport(0, 0, 0).line()).contains("trainable%: 0.0000");
        refused(() -> new ParameterReport(-1, 0, 0), "negative count");
    }
}
