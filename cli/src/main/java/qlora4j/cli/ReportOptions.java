package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import picocli.CommandLine.Option;
import qlora4j.train.report.EventFile;

/** What a training run leaves to look at, beside {@code metrics.jsonl}. */
final class ReportOptions {
    private static final String TENSORBOARD = "tensorboard";
    private static final String NONE = "none";

    @Option(names = "--report-samples", paramLabel = "N", defaultValue = "3",
            description = "Held-out prompts (of --data where none are held out) that the base and the adapter answer at"
                    + " the end, for report.html; 0: none (default: ${DEFAULT-VALUE}).")
    private int samples;

    @Option(names = "--report-to", paramLabel = "NAME", split = ",", defaultValue = NONE,
            description = "tensorboard: write event files too (default: ${DEFAULT-VALUE}).")
    private List<String> reportTo;

    @Option(names = "--logging-dir", paramLabel = "DIR",
            description = "Where event files go (default: runs/DATE_TIME in the output directory).")
    private Path loggingDir;

    /** Takes what is logged. */
    interface Events extends AutoCloseable {
        /** Metrics of a step, by their names in {@code metrics.jsonl}. */
        void logged(int step, Map<String, ? extends Number> metrics) throws IOException;

        @Override
        void close() throws IOException;
    }

    /** Refuses what makes no sense before anything is loaded. */
    void check() {
        if (samples < 0) {
            throw new IllegalArgumentException("--report-samples " + samples + ": must be 0 or more");
        }
        for (String name : reportTo) {
            if (!name.equals(TENSORBOARD) && !name.equals(NONE)) {
                throw new IllegalArgumentException("--report-to " + name + ": expected tensorboard or none");
            }
        }
    }

    /** How many prompts are answered for the report. */
    int samples() {
        return samples;
    }

    /** Opens the event file of a run that writes into {@code output}; without one, what is logged goes nowhere. */
    Events events(Path output) throws IOException {
        if (!reportTo.contains(TENSORBOARD)) {
            return new Events() {
                @Override
                public void logged(int step, Map<String, ? extends Number> metrics) {
                }

                @Override
                public void close() {
                }
            };
        }
        Path directory = loggingDir != null ? loggingDir
                : new OutputDirectory(output).runs().resolve(LocalDateTime.now()
                        .format(DateTimeFormatter.ofPattern("yyyy-MM-dd_HH-mm-ss", Locale.ROOT)));
        EventFile file = new EventFile(directory, now(), "qlora." + ProcessHandle.current().pid());
        return new Events() {
            @Override
            public void logged(int step, Map<String, ? extends Number> metrics) throws IOException {
                file.scalars(now(), step, tagged(metrics));
            }

            @Override
            public void close() throws IOException {
                file.close();
            }
        };
    }

    private static double now() {
        return System.currentTimeMillis() / 1e3;
    }

    /** The tags that transformers' trainer gives: {@code train/loss}, {@code eval/loss}. */
    private static Map<String, Number> tagged(Map<String, ? extends Number> metrics) {
        Map<String, Number> tagged = new LinkedHashMap<>();
        metrics.forEach((name, value) -> tagged.put(
                name.startsWith("eval_") ? "eval/" + name.substring("eval_".length()) : "train/" + name, value));
        return tagged;
    }
}
