package qlora4j.train.report;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A run to make pages of. */
final class SampleRun {
    private SampleRun() {
    }

    static Metrics metrics() {
        List<Map<String, Double>> lines = new ArrayList<>();
        lines.add(Map.of("step", 0.0, "eval_loss", 3.0));
        for (double i = 1; i <= 80; i++) {
            lines.add(Map.of("step", i, "loss", 1 + 1 / i, "grad_norm", 1 / i, "learning_rate", 2e-4 * (1 - i / 80),
                    "tokens", 100.0, "tokens_per_second", 2000 + i));
        }
        lines.add(Map.of("step", 80.0, "eval_loss", 1.1));
        return new Metrics(lines);
    }

    static RunRecord plain() {
        return RunRecord.begun("Fine-tuning of a model", "2026-01-01T00:00:00Z", Map.of("data", "80 rows"),
                Map.of("--lora-r", "8"), Map.of("Java", "25"), Map.of("weights", 12_300_000L))
                .ended(61, Map.of("weights", 12_200_000L), 12_200_000).with("Held-out prompts",
                        List.of(new RunRecord.Sample("Say hello", "ahoy", "hello", "ahoy")));
    }

    static RunRecord hostile() {
        String script = "</script><script>alert(1)</script>";
        String image = "</pre><img src=x onerror=\"alert(2)\">\u0000\u202e";
        String attribute = "\" onmouseover=\"alert(3)";
        return RunRecord.begun(script, image, Map.of(attribute, script), Map.of(script, attribute),
                Map.of(attribute, image), Map.of(script, 5L)).ended(1, Map.of(image, 5L), 5)
                .with(script, List.of(new RunRecord.Sample(script, image, attribute, "&lt;")));
    }
}
