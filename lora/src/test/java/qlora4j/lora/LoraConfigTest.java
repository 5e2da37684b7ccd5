package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Collection;
import java.util.List;
import java.util.Map;
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
        assertThat(config(64, 16, 0, "q_proj").scale(LINEARS.getFirst())).isEqualTo(0.25);
    }

    /** A key is a regular expression for the end of a path, after a dot or whole; the first that matches counts. */
    @Test
    void patternsGiveModulesRanksAndAlphasOfTheirOwn() {
        LoraConfig config = config(64, 16, 0, "q_proj").withPatterns(
                Map.of("layers\\.1\\..*q_proj", 4), Map.of("q_proj", 8.0, "roj", 1.0));
        assertThat(LINEARS.stream().map(config::rank)).containsExactly(64, 64, 4, 64);
        assertThat(LINEARS.stream().map(config::scale)).containsExactly(8 / 64.0, 16 / 64.0, 2.0, 16 / 64.0);
        LoraConfig stabilized = config.withVariant(true, false);
        assertThat(LINEARS.stream().map(stabilized::scale)).containsExactly(1.0, 2.0, 4.0, 2.0);
        refused(() -> config.withPatterns(Map.of("q_proj", 0), Map.of()), "--rank-pattern q_proj=0");
        refused(() -> config.withPatterns(Map.of(), Map.of("q_proj", -1.0)), "--alpha-pattern q_proj=-1.0");
    }

    @Test
    void badExpressionsNameTheFlag() {
        LoraConfig config = config(8, 16, 0, "q_proj");
        refused(() -> config.withPatterns(Map.of("(", 4), Map.of()), "--rank-pattern");
        refused(() -> config.withPatterns(Map.of(), Map.of("(", 4.0)), "--alpha-pattern");
        refused(() -> new TargetModules(List.of(), "(", List.of(), null, List.of(), List.of()), "--target-modules");
        refused(() -> new TargetModules(List.of("q"), null, List.of(), "(", List.of(), List.of()), "--exclude-modules");
        refused(() -> new TargetModules(List.of("q"), null, List.of(), null, List.of(0), List.of("(")),
                "--layers-pattern");
        refused(() -> new TargetModules(List.of("q"), null, List.of(), null, List.of(-1), List.of()),
                "--layers-to-transform -1");
        assertThat(config.patterns().isEmpty()).isTrue();
        assertThat(config.withPatterns(Map.of("q", 4), Map.of()).patterns().isEmpty()).isFalse();
        assertThat(config.withPatterns(Map.of(), Map.of("q", 4.0)).patterns().isEmpty()).isFalse();
    }

    @Test
    void initialValuesThatAreNoneAreRefused() {
        refused(() -> LoraConfig.Init.named("olora", 1), "--init-lora-weights olora: expected");
        refused(() -> LoraConfig.Init.named("loftq", 0), "--loftq-iter 0");
    }

    private static List<String> resolve(List<String> names, String regex, List<String> exclude, List<Integer> layers,
            List<String> before) {
        return new TargetModules(names, regex, exclude, null, layers, before).among(LINEARS, List.of());
    }

    @Test
    void targetsByPatternLayerAndExclusionAsInPeft() {
        assertThat(resolve(List.of(), ".*\\.0\\..*|.*1.*up_proj", List.of(), List.of(), List.of()))
                .containsExactly(LINEARS.get(0), LINEARS.get(1), LINEARS.get(3));
        assertThat(resolve(List.of(), ".*(?P<name>q)_proj", List.of(), List.of(), List.of())).hasSize(2);
        assertThat(resolve(List.of("all-linear"), null, List.of("q_proj"), List.of(1), List.of()))
                .containsExactly(LINEARS.get(3));
        assertThat(resolve(List.of("q_proj"), null, List.of(), List.of(1), List.of("layers")))
                .containsExactly(LINEARS.get(2));
        // A whole path is taken whatever its layer.
        assertThat(resolve(List.of(LINEARS.getFirst()), null, List.of(), List.of(1), List.of()))
                .containsExactly(LINEARS.getFirst());
        refused(() -> resolve(List.of("q_proj"), null, List.of(), List.of(7), List.of()),
                "--target-modules: no linear layer is left");
        refused(() -> resolve(List.of("q_proj"), null, List.of(), List.of(1), List.of("blocks")),
                "--target-modules: no linear layer is left");
        refused(() -> resolve(List.of(), "q_proj", List.of(), List.of(), List.of()),
                "--target-modules q_proj: no linear layer is left");
        refused(() -> resolve(List.of(), "(", List.of(), List.of(), List.of()), "--target-modules (: not a regular");
        // Unbounded, this one takes longer than anyone waits.
        refused(() -> resolve(List.of(), "(?:(?:(?:.*)*.*)*.*)*=", List.of(), List.of(), List.of()),
                "--target-modules (?:(?:(?:.*)*.*)*.*)*=: matching model.layers.0.self_attn.q_proj needs too many steps");
        String many = "(a|.)*".repeat(20) + "=";
        refused(() -> resolve(List.of(), many, List.of(), List.of(), List.of()), "--target-modules " + many);
        refused(() -> resolve(List.of("q_proj"), null, List.of(), List.of(-1), List.of()), "--layers-to-transform -1");
        refused(() -> resolve(List.of("q_proj"), null, List.of(), List.of(), List.of("layers")), "--layers-pattern");
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
        for (String target : List.of("proj", "_proj", "k_proj", "self_attn", "q_proj.")) {
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
