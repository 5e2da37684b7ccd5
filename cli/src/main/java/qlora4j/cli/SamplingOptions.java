package qlora4j.cli;

import java.util.List;
import picocli.CommandLine.Option;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.GenerationConfig;
import qlora4j.model.SamplingConfig;

/** How tokens are chosen and how many: what no flag says comes from the model's {@code generation_config.json}. */
final class SamplingOptions {
    /** The most new tokens where neither the flag nor the model says how many. */
    private static final int NEW_TOKENS = 256;

    @Option(names = "--max-new-tokens", paramLabel = "N",
            description = "The most tokens to write (default: the model's, else " + NEW_TOKENS + ").")
    private Integer maxNewTokens;

    @Option(names = "--temperature", paramLabel = "X", description = "Divides the logits; 0: always the likeliest.")
    private Double temperature;

    @Option(names = "--top-k", paramLabel = "K", description = "Choose among the K likeliest; 0: all.")
    private Integer topK;

    @Option(names = "--top-p", paramLabel = "P",
            description = "Choose among the likeliest that together reach this probability; 1: all.")
    private Double topP;

    @Option(names = "--repetition-penalty", paramLabel = "X", description = "Makes tokens seen before less likely.")
    private Double repetitionPenalty;

    @Option(names = "--stop", paramLabel = "TEXT", description = "A text that ends the output; can be repeated.")
    private List<String> stop = List.of();

    @Option(names = "--seed", paramLabel = "N", defaultValue = "42",
            description = "Of the choice of tokens (default: ${DEFAULT-VALUE}).")
    private long seed;

    /** {@code --max-new-tokens}, or null. */
    Integer maxNewTokens() {
        return maxNewTokens;
    }

    /** The options for a model; the number of new tokens is not held against the room that a prompt leaves. */
    GenerateOptions of(GenerationConfig defaults) {
        int most = maxNewTokens != null ? maxNewTokens : defaults.maxNewTokens().orElse(NEW_TOKENS);
        return new GenerateOptions(most, sampling(defaults), stop);
    }

    private SamplingConfig sampling(GenerationConfig defaults) {
        double penalty = repetitionPenalty == null ? defaults.repetitionPenalty() : repetitionPenalty;
        boolean sample = temperature != null ? temperature != 0 : topK != null || topP != null || defaults.doSample();
        if (!sample) {
            return new SamplingConfig(false, 1, 0, 1, penalty, seed);
        }
        return new SamplingConfig(true, temperature == null ? defaults.temperature() : temperature,
                topK == null ? defaults.topK() : topK, topP == null ? defaults.topP() : topP, penalty, seed);
    }
}
