package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.Map;
import me.tongfei.progressbar.DelegatingProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;
import qlora4j.train.Trainer.StepResult;
import qlora4j.train.demo.DemoRun;

/** How far a training run is: a bar where standard error is a terminal, else a line every few steps. */
abstract sealed class Progress implements DemoRun.Run {
    final PrintWriter out;
    private ReportOptions.Events events;

    private Progress(PrintWriter out) {
        this.out = out;
    }

    /**
     * The progress of steps {@code done + 1} to {@code total}.
     *
     * @param out takes lines
     * @param every steps between lines, where there is no bar
     */
    static Progress of(PrintWriter out, int done, int total, int every) {
        return StandardError.isTerminal() ? new Bar(out, done, total) : new Lines(out, done, every);
    }

    /** Passes what is logged on as well. */
    Progress with(ReportOptions.Events sink) {
        events = sink;
        return this;
    }

    @Override
    public void logged(int step, Map<String, ? extends Number> metrics) throws IOException {
        if (events != null) {
            events.logged(step, metrics);
        }
    }

    /** Prints a line that stays. */
    void line(String line) {
        out.println(line);
        out.flush();
    }

    @Override
    public void evaluated(int step, double loss) {
        line(String.format(Locale.ROOT, "step %d: held-out NLL %.4f", step, loss));
    }

    @Override
    public void saved(Path checkpoint) {
        line("saved " + checkpoint);
    }

    @Override
    public void stoppedEarly(int step, int evaluations) {
        line("stopped at step " + step + ": " + evaluations + " evaluations in a row were not better than the best");
    }

    @Override
    public void best(Path checkpoint, double metric) {
        line(String.format(Locale.ROOT, "best: %s, held-out NLL %.4f", checkpoint, metric));
    }

    @Override
    public void close() {
    }

    private static final class Lines extends Progress {
        private final int every;
        private final int first;
        private final long start = System.nanoTime();
        private double lossSum;
        private int steps;

        Lines(PrintWriter out, int first, int every) {
            super(out);
            this.first = first;
            this.every = every;
        }

        @Override
        public void step(StepResult r, int total, double tokensPerSecond) {
            lossSum += r.loss();
            steps++;
            if (r.step() % every == 0 || r.step() == total) {
                double perStep = (System.nanoTime() - start) / 1e9 / (r.step() - first);
                Duration left = Duration.ofSeconds(Math.round(perStep * (total - r.step())));
                line(String.format(Locale.ROOT, "step %d/%d  loss %.4f  grad norm %.4f  lr %.3g  %.1f tokens/s  ETA %s",
                        r.step(), total, lossSum / steps, r.gradNorm(), r.learningRate(), tokensPerSecond,
                        clock(left)));
                lossSum = 0;
                steps = 0;
            }
        }

        private static String clock(Duration d) {
            return String.format(Locale.ROOT, "%d:%02d:%02d", d.toHours(), d.toMinutesPart(), d.toSecondsPart());
        }
    }

    private static final class Bar extends Progress {
        private static final int WIDTH = 100;
        private static final int UPDATE_MILLIS = 200;

        private final ProgressBar bar;
        private final int width;

        Bar(PrintWriter out, int done, int total) {
            super(out);
            String columns = System.getenv("COLUMNS");
            width = columns != null && columns.matches("\\d{2,4}") ? Integer.parseInt(columns) - 1 : WIDTH;
            bar = new ProgressBarBuilder().setTaskName("training").setInitialMax(total).startsFrom(done, Duration.ZERO)
                    .setStyle(ProgressBarStyle.ASCII).setUpdateIntervalMillis(UPDATE_MILLIS).showSpeed()
                    .setConsumer(new DelegatingProgressBarConsumer(this::draw, width)).build();
        }

        private synchronized void draw(String line) {
            System.err.print("\r" + line + " ".repeat(Math.max(0, width - line.length())));
            System.err.flush();
        }

        private synchronized void erase() {
            System.err.print("\r" + " ".repeat(width) + "\r");
            System.err.flush();
        }

        @Override
        public void step(StepResult r, int total, double tokensPerSecond) {
            bar.setExtraMessage(String.format(Locale.ROOT, "loss %.3f, %.0f tokens/s", r.loss(), tokensPerSecond));
            bar.stepTo(r.step());
        }

        @Override
        void line(String line) {
            synchronized (this) {
                erase();
                super.line(line);
            }
            bar.refresh();
        }

        @Override
        public void close() {
            bar.close();
            System.err.println();
        }
    }
}
