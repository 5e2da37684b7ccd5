package qlora4j.train;

/**
 * Which checkpoint a run ends with, and when it stops before its last step; as transformers' Trainer with
 * {@code load_best_model_at_end} and its EarlyStoppingCallback. Every evaluation but the one before the first step
 * counts.
 *
 * @param loadBest whether the adapter of the best evaluation is what the run ends with
 * @param greaterIsBetter whether a greater metric is a better one; the metric is the loss on held-out rows
 * @param patience stop after so many evaluations in a row that are not better; 0: never
 * @param threshold how much better than the best so far an evaluation must be to count as better for patience
 */
public record Selection(boolean loadBest, boolean greaterIsBetter, int patience, double threshold) {
    /** The last step is what the run ends with, and it does not stop early. */
    public static final Selection LAST = new Selection(false, false, 0, 0);

    public Selection {
        if (patience < 0) {
            throw new IllegalArgumentException("--early-stopping-patience " + patience + ": must be at least 0");
        }
        if (!(threshold >= 0) || Double.isInfinite(threshold)) {
            throw new IllegalArgumentException("--early-stopping-threshold " + threshold
                    + ": must be a number of 0 or more");
        }
    }

    /** Whether evaluations decide anything. */
    public boolean isOn() {
        return loadBest || patience > 0;
    }

    /**
     * What evaluations have said so far; names as in transformers' trainer_state.json.
     *
     * @param bestMetric the best, or NaN before the first
     * @param bestStep its step; 0 before the first
     * @param waited evaluations in a row that were not better
     */
    public record State(double bestMetric, int bestStep, int waited) {
        static final State NONE = new State(Double.NaN, 0, 0);
    }

    /** The state after an evaluation at {@code step}. */
    State after(State before, int step, double metric) {
        boolean first = before.bestStep == 0;
        boolean better = first || (greaterIsBetter ? metric > before.bestMetric : metric < before.bestMetric);
        boolean enough = first || better && Math.abs(metric - before.bestMetric) > threshold;
        int waited = enough ? 0 : before.waited + 1;
        return better ? new State(metric, step, waited) : new State(before.bestMetric, before.bestStep, waited);
    }

    /** Whether the run has waited long enough. */
    boolean stops(State state) {
        return patience > 0 && state.waited >= patience;
    }
}
