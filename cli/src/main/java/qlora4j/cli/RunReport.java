package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.time.temporal.ChronoUnit;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import qlora4j.model.CausalLm;
import qlora4j.tensor.Backend;
import qlora4j.train.MemoryPlan;
import qlora4j.train.data.TokenizedRow;
import qlora4j.train.demo.DemoRun;
import qlora4j.train.report.ReportPage;
import qlora4j.train.report.RunRecord;
import qlora4j.train.report.Samples;

/** The record of a run as it goes, and its page at the end. */
final class RunReport {
    /** The most tokens of a sample. */
    private static final int SAMPLE_TOKENS = 64;

    private final Path output;
    private final long start = System.nanoTime();
    private RunRecord record;

    /** The page of a demo that has ended: of its main adapter's training, in {@code output}. */
    static Path ofDemo(CommandSpec command, Path output, Backend backend, DemoRun.Result result) throws IOException {
        DemoRun.Training main = result.main();
        Map<String, String> facts = new LinkedHashMap<>();
        facts.put("exact match on " + result.heldOut() + " held-out pairs",
                result.exactBefore() + " before, " + result.exactAfter() + " after, " + result.exactReloaded()
                        + " after loading again");
        facts.put("parameters", main.parameters());
        RunReport report = new RunReport(command, "qlora demo: the instruction for a response", main.directory(),
                backend, main.predicted(), facts);
        report.record = report.record.ended(main.seconds(), byUse(main.measured()), main.peak())
                .with("Held-out pairs", main.samples());
        Path page = output.resolve(ReportPage.FILE);
        Files.copy(report.write(), page, StandardCopyOption.REPLACE_EXISTING);
        return page;
    }

    /**
     * Begins the record of a run and writes it.
     *
     * @param facts lines about data and parameters, by name
     */
    RunReport(CommandSpec command, String title, Path output, Backend backend, MemoryPlan predicted,
            Map<String, String> facts) throws IOException {
        this.output = output;
        record = RunRecord.begun(title, ZonedDateTime.now().truncatedTo(ChronoUnit.SECONDS)
                .format(DateTimeFormatter.ISO_OFFSET_DATE_TIME), facts, configuration(command), environment(backend),
                byUse(predicted));
        record.write(output);
    }

    /** Notes that this is the second part of a run, or a later one. */
    void resumed(Path checkpoint) throws IOException {
        record = record.withFact("resumed from", checkpoint.getFileName() + "; the time is of the part since then");
        record.write(output);
    }

    /** Notes what was held, while it still is. */
    void ended(Backend backend) throws IOException {
        record = record.ended((System.nanoTime() - start) / 1e9, byUse(MemoryPlan.held(backend.ledger())),
                backend.ledger().peak());
        record.write(output);
    }

    /** Lets base and adapter answer prompts: the first of {@code held}, or where that is null, of {@code trained}. */
    void samples(CausalLm lm, String adapter, List<TokenizedRow> held, List<TokenizedRow> trained, int count)
            throws IOException {
        if (count > 0) {
            record = record.with(held != null ? "Held-out prompts, which were not trained on"
                    : "Prompts of the training data, since none were held out",
                    Samples.of(lm, adapter, held != null ? held : trained, count, SAMPLE_TOKENS));
        }
    }

    /** Writes record and page; returns the page's file. */
    Path write() throws IOException {
        record.write(output);
        return ReportPage.write(output);
    }

    private static Map<String, Long> byUse(MemoryPlan plan) {
        Map<String, Long> bytes = new LinkedHashMap<>();
        plan.bytes().forEach((use, n) -> bytes.put(MemoryPlan.name(use), n));
        return bytes;
    }

    /** Every flag of the command with its value, given or by default. */
    static Map<String, String> configuration(CommandSpec command) {
        Map<String, String> values = new LinkedHashMap<>();
        for (OptionSpec option : command.options()) {
            Object value = option.getValue();
            if (value != null && !option.usageHelp() && !option.versionHelp() && !option.hidden()) {
                values.put(option.longestName(), text(value));
            }
        }
        return values;
    }

    private static String text(Object value) {
        return switch (value) {
            case Collection<?> c -> c.stream().map(String::valueOf).collect(Collectors.joining(", "));
            case Object[] a -> Arrays.stream(a).map(String::valueOf).collect(Collectors.joining(", "));
            default -> value.toString();
        };
    }

    private static Map<String, String> environment(Backend backend) {
        Map<String, String> e = new LinkedHashMap<>();
        e.put("qlora4j", Version.number());
        e.put("backend", backend.describe());
        e.put("Java", Runtime.version() + " (" + System.getProperty("java.vendor") + ")");
        e.put("system", System.getProperty("os.name") + " " + System.getProperty("os.version") + ", "
                + System.getProperty("os.arch"));
        e.put("processors", String.valueOf(Runtime.getRuntime().availableProcessors()));
        e.put("JVM options", Objects.requireNonNullElse(System.getenv("QLORA_JAVA_OPTS"), ""));
        e.values().removeIf(String::isEmpty);
        return e;
    }
}
