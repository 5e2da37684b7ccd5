package qlora4j.cli;

import java.util.Set;
import picocli.CommandLine.Option;
import qlora4j.train.Selection;
import qlora4j.train.TrainSettings;

/** What transformers' trainer has beside the step: the best checkpoint, early stopping, the order of rows, noise. */
final class SelectionOptions {
    private static final String SHOWN = " (default: ${DEFAULT-VALUE}).";
    private static final Set<String> METRICS = Set.of("loss", "eval_loss");

    @Option(names = "--load-best-model-at-end", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "End with the adapter of the best evaluation, not of the last step. Each new best is saved as a"
                    + " checkpoint, which --save-total-limit does not delete.")
    private boolean loadBest;

    @Option(names = "--metric-for-best-model", paramLabel = "NAME", defaultValue = "loss",
            description = "What tells which evaluation is the best: loss, or eval_loss, which is the same" + SHOWN)
    private String metric;

    @Option(names = "--greater-is-better", arity = "0..1", defaultValue = "false", fallbackValue = "true",
            paramLabel = "BOOL", description = "Whether a greater metric is better" + SHOWN)
    private boolean greater;

    @Option(names = "--early-stopping-patience", paramLabel = "N", defaultValue = "0",
            description = "Stop after so many evaluations in a row that are not better than the best; 0: do not"
                    + SHOWN)
    private int patience;

    @Option(names = "--early-stopping-threshold", paramLabel = "X", defaultValue = "0",
            description = "By how much an evaluation must be better to count as such" + SHOWN)
    private double threshold;

    @Option(names = "--group-by-length", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Put rows of about the same length into the same step.")
    private boolean grouped;

    @Option(names = "--neftune-noise-alpha", paramLabel = "X", defaultValue = "0",
            description = "Noise on the embeddings in training, uniform up to X / sqrt(tokens * features): NEFTune; 5 is"
                    + " usual, 0: none" + SHOWN)
    private double neftune;

    /** The settings with what was asked for here. */
    TrainSettings in(TrainSettings settings) {
        if (!METRICS.contains(metric)) {
            throw new IllegalArgumentException("--metric-for-best-model " + metric + ": expected loss or eval_loss");
        }
        return settings.withSelection(new Selection(loadBest, greater, patience, threshold)).with(grouped, neftune);
    }
}
