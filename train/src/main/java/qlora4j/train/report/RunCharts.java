package qlora4j.train.report;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.DoubleStream;
import qlora4j.train.data.MetricsWriter;
import qlora4j.train.plot.Axis;
import qlora4j.train.plot.Chart;
import qlora4j.train.plot.Series;
import qlora4j.train.plot.Series.Style;

/** The curves of a run. */
final class RunCharts {
    private static final int X_MARKS = 6;
    private static final int Y_MARKS = 5;
    /** From this many points on a smoothed line is drawn over the measured one. */
    private static final int SMOOTHED_FROM = 12;
    private static final double FEW = 0.6;
    private static final double MANY = 0.9;
    private static final int MANY_POINTS = 60;

    private final Metrics metrics;

    RunCharts(Metrics metrics) {
        this.metrics = metrics;
    }

    /** Training and held-out loss; null where no step was logged. */
    Chart loss() {
        Metrics.Curve train = metrics.curve(MetricsWriter.LOSS);
        Metrics.Curve eval = metrics.curve(MetricsWriter.EVAL_LOSS);
        List<Series> lines = new ArrayList<>(lines("training", 1, train));
        if (!eval.isEmpty()) {
            lines.add(new Series("held out", 2, Style.DOTS, eval.steps(), eval.values()));
        }
        return lines.isEmpty() ? null : chart("Loss", "nats per label token", lines, false);
    }

    /** Learning rate, gradient norm and speed, as far as they were logged. */
    List<Chart> others() {
        List<Chart> charts = new ArrayList<>();
        add(charts, "Learning rate", "per step", MetricsWriter.LEARNING_RATE, false);
        add(charts, "Gradient norm", "before clipping", MetricsWriter.GRAD_NORM, true);
        add(charts, "Speed", "tokens/s", MetricsWriter.TOKENS_PER_SECOND, true);
        return charts;
    }

    private void add(List<Chart> charts, String title, String unit, String metric, boolean noisy) {
        Metrics.Curve c = metrics.curve(metric);
        if (!c.isEmpty()) {
            charts.add(chart(title, unit, noisy ? lines("measured", 1, c)
                    : List.of(new Series(title.toLowerCase(Locale.ROOT), 1, Style.LINE, c.steps(),
                            c.values())),
                    true));
        }
    }

    /** A curve as measured, and smoothed over it where there are enough points. */
    private static List<Series> lines(String name, int colour, Metrics.Curve c) {
        if (c.isEmpty()) {
            return List.of();
        }
        if (c.steps().length < SMOOTHED_FROM) {
            return List.of(new Series(name, colour, Style.LINE, c.steps(), c.values()));
        }
        double weight = c.steps().length < MANY_POINTS ? FEW : MANY;
        return List.of(new Series(name, colour, Style.RAW, c.steps(), c.values()),
                new Series("smoothed", colour, Style.LINE, c.steps(), Series.smoothed(c.values(), weight)));
    }

    private static Chart chart(String title, String unit, List<Series> lines, boolean fromZero) {
        double last = all(lines, true).max().orElseThrow();
        double first = Math.min(all(lines, true).min().orElseThrow(), last - 1);
        double low = all(lines, false).min().orElseThrow();
        double high = all(lines, false).max().orElseThrow();
        return new Chart(title, Axis.linear("step", first, last, X_MARKS, false),
                Axis.linear(unit, fromZero ? Math.min(0, low) : low, high, Y_MARKS, true), lines);
    }

    private static DoubleStream all(List<Series> lines, boolean x) {
        return lines.stream().flatMapToDouble(s -> DoubleStream.of(x ? s.x() : s.y()));
    }
}
