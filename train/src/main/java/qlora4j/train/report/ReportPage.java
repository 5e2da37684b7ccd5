package qlora4j.train.report;

import static qlora4j.train.plot.Markup.escape;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import qlora4j.train.data.MetricsWriter;
import qlora4j.train.plot.Chart;
import qlora4j.train.plot.Markup;

/**
 * {@code report.html}: one page about a run, which asks nothing of the network. Its one script is fixed and named by its
 * hash in the page's content security policy; every text of the run is escaped and stands between tags only.
 */
public final class ReportPage {
    /** The file's name in a run's directory. */
    public static final String FILE = "report.html";
    private static final double MB = 1e6;
    private static final int NARROW = 400;
    private static final int HEIGHT = 250;
    private static final int WIDE = 980;
    private static final int WIDE_HEIGHT = 330;
    /** Rows of the table of numbers, at most. */
    private static final int ROWS = 500;

    private final Metrics metrics;
    private final RunRecord run;
    private final StringBuilder out = new StringBuilder();

    private ReportPage(Metrics metrics, RunRecord run) {
        this.metrics = metrics;
        this.run = run;
    }

    /**
     * Makes the page of a run's directory from its {@code metrics.jsonl} and, where there is one, its {@code run.json}.
     *
     * @return the page's file
     * @throws IOException where there is no {@code metrics.jsonl}, or a file cannot be read or written
     */
    public static Path write(Path directory) throws IOException {
        RunRecord run = RunRecord.read(directory).orElseGet(() -> RunRecord.begun(
                "Run in " + directory.toAbsolutePath().normalize().getFileName(), null, Map.of(), Map.of(), Map.of(),
                Map.of()));
        return write(directory, Metrics.read(directory.resolve(Metrics.FILE)), run);
    }

    /** Makes the page in a directory. */
    public static Path write(Path directory, Metrics metrics, RunRecord run) throws IOException {
        Path file = directory.resolve(FILE);
        Files.writeString(file, html(metrics, run));
        return file;
    }

    /** The page. */
    public static String html(Metrics metrics, RunRecord run) {
        return new ReportPage(metrics, run).page();
    }

    private String page() {
        String script = Markup.resource(ReportPage.class, "report.js");
        out.append("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
                .append("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-")
                .append(sha256(script)).append("'; style-src 'unsafe-inline'\">\n")
                .append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
                .append("<meta name=\"color-scheme\" content=\"light dark\">\n<title>").append(escape(run.title()))
                .append("</title>\n<style>\n").append(Chart.css())
                .append(Markup.resource(ReportPage.class, "report.css")).append("</style>\n</head>\n<body>\n<main>\n");
        heading();
        tiles();
        charts();
        memory();
        samples();
        table("Configuration", run.configuration(), "as given or by default");
        table("Environment", run.environment(), "");
        numbers();
        out.append("</main>\n<div id=\"tip\" hidden></div>\n<script>").append(script)
                .append("</script>\n</body>\n</html>\n");
        return out.toString();
    }

    private static String sha256(String text) {
        try {
            return Base64.getEncoder().encodeToString(
                    MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8)));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private void heading() {
        out.append("<header><h1>").append(escape(run.title())).append("</h1>");
        List<String> words = new ArrayList<>();
        if (run.started() != null) {
            words.add("started " + run.started());
        }
        words.add(run.seconds() == null ? "not ended when this page was written" : "took " + clock(run.seconds()));
        words.addAll(run.facts().entrySet().stream().map(e -> e.getKey() + ": " + e.getValue()).toList());
        words.forEach(w -> out.append("<p>").append(escape(w)).append("</p>"));
        out.append("</header>\n");
    }

    private static String clock(double seconds) {
        long s = Math.round(seconds);
        return s < 60 ? String.format(Locale.ROOT, "%.1f s", seconds)
                : s < 3600 ? s / 60 + " min " + s % 60 + " s" : s / 3600 + " h " + s % 3600 / 60 + " min";
    }

    private void tiles() {
        Map<String, String> tiles = new LinkedHashMap<>();
        Metrics.Curve loss = metrics.curve(MetricsWriter.LOSS);
        Metrics.Curve eval = metrics.curve(MetricsWriter.EVAL_LOSS);
        Metrics.Curve rate = metrics.curve(MetricsWriter.TOKENS_PER_SECOND);
        Metrics.Curve tokens = metrics.curve(MetricsWriter.TOKENS);
        if (!loss.isEmpty()) {
            tiles.put("steps", Markup.number(loss.steps()[loss.steps().length - 1]));
            tiles.put("training loss, last", Markup.number(loss.last()));
        }
        if (!eval.isEmpty()) {
            tiles.put("held-out loss, first → last",
                    Markup.number(eval.values()[0]) + " → " + Markup.number(eval.last()));
        }
        if (!tokens.isEmpty()) {
            double sum = 0;
            double seconds = 0;
            for (int i = 0; i < tokens.values().length; i++) {
                sum += tokens.values()[i];
                seconds += rate.isEmpty() ? 0 : tokens.values()[i] / rate.values()[i];
            }
            tiles.put("tokens", String.format(Locale.ROOT, "%,.0f", sum));
            if (seconds > 0) {
                tiles.put("tokens/s, mean", Markup.number(sum / seconds));
            }
        }
        if (run.peak() > 0) {
            tiles.put("memory at its peak", String.format(Locale.ROOT, "%.1f MB", run.peak() / MB));
        }
        out.append("<dl class=\"tiles\">");
        tiles.forEach((name, value) -> out.append("<div><dt>").append(escape(name)).append("</dt><dd>")
                .append(escape(value)).append("</dd></div>"));
        out.append("</dl>\n");
    }

    private void charts() {
        RunCharts charts = new RunCharts(metrics);
        if (charts.loss() == null) {
            out.append("<p class=\"note\">No step has been logged.</p>\n");
            return;
        }
        out.append("<section aria-label=\"curves\"><figure class=\"wide\">")
                .append(charts.loss().element(WIDE, WIDE_HEIGHT)).append("</figure><figure class=\"narrow\">")
                .append(charts.loss().element(NARROW, HEIGHT)).append("</figure><div class=\"charts\">");
        charts.others().forEach(c -> out.append("<figure>").append(c.element(NARROW, HEIGHT)).append("</figure>"));
        out.append("</div></section>\n");
    }

    private void memory() {
        Set<String> uses = new LinkedHashSet<>(run.predicted().keySet());
        uses.addAll(run.measured().keySet());
        uses.removeIf(u -> run.predicted().getOrDefault(u, 0L) + run.measured().getOrDefault(u, 0L) == 0);
        if (uses.isEmpty()) {
            return;
        }
        long most = Math.max(1, uses.stream().mapToLong(u -> Math.max(run.predicted().getOrDefault(u, 0L),
                run.measured().getOrDefault(u, 0L))).max().orElse(1));
        boolean measured = !run.measured().isEmpty();
        out.append("<section><h2>Memory</h2><div class=\"scroll\"><table class=\"memory\"><thead><tr><th>use</th>"
                + "<th class=\"n\">predicted, MB</th><th class=\"n\">measured, MB</th><th></th></tr></thead><tbody>");
        for (String use : uses) {
            long p = run.predicted().getOrDefault(use, 0L);
            long m = run.measured().getOrDefault(use, 0L);
            row(use, p, measured ? m : -1);
            out.append(
                    "<td><svg class=\"bars\" viewBox=\"0 0 200 16\" preserveAspectRatio=\"none\" aria-hidden=\"true\">")
                    .append(bar(1, p, most)).append(measured ? bar(9, m, most) : "").append("</svg></td></tr>");
        }
        out.append("</tbody><tfoot>");
        row("together", run.predicted().values().stream().mapToLong(Long::longValue).sum(),
                measured ? run.measured().values().stream().mapToLong(Long::longValue).sum() : -1);
        out.append("<td></td></tr></tfoot></table></div>");
        if (run.peak() > 0) {
            out.append(String.format(Locale.ROOT, "<p class=\"note\">At its peak %.1f MB were held on the device.</p>",
                    run.peak() / MB));
        }
        out.append("</section>\n");
    }

    private void row(String name, long predicted, long measured) {
        out.append("<tr><th scope=\"row\">").append(escape(name)).append("</th><td class=\"n\">")
                .append(String.format(Locale.ROOT, "%.1f", predicted / MB)).append("</td><td class=\"n\">")
                .append(measured < 0 ? "–" : String.format(Locale.ROOT, "%.1f", measured / MB)).append("</td>");
    }

    private static String bar(int y, long bytes, long most) {
        return String.format(Locale.ROOT, "<rect class=\"%s\" x=\"0\" y=\"%d\" width=\"%.2f\" height=\"6\"/>",
                y == 1 ? "predicted" : "measured", y, 200.0 * bytes / most);
    }

    private void samples() {
        if (run.samples().isEmpty()) {
            return;
        }
        out.append("<section><h2>Samples</h2><p class=\"note\">").append(escape(run.samplesOf()))
                .append("; the likeliest token each time.</p>");
        for (RunRecord.Sample s : run.samples()) {
            out.append("<article class=\"sample\">");
            text("prompt", s.prompt(), "prompt");
            text("before: the base model", s.before(), "");
            text("after: with the adapter", s.after(), "after");
            text("in the data", s.reference(), "");
            out.append("</article>");
        }
        out.append("</section>\n");
    }

    private void text(String heading, String text, String style) {
        out.append("<div class=\"text ").append(style).append("\"><h3>").append(heading)
                .append("</h3><pre dir=\"auto\">")
                .append(text.isBlank() ? "<em>(nothing)</em>" : "\n" + escape(text)).append("</pre></div>");
    }

    private void table(String heading, Map<String, String> rows, String note) {
        if (rows.isEmpty()) {
            return;
        }
        out.append("<section><h2>").append(heading).append("</h2>");
        if (!note.isEmpty()) {
            out.append("<p class=\"note\">").append(note).append("</p>");
        }
        out.append("<table class=\"pairs\"><tbody>");
        rows.forEach((k, v) -> out.append("<tr><th scope=\"row\">").append(escape(k)).append("</th><td>")
                .append(escape(v)).append("</td></tr>"));
        out.append("</tbody></table></section>\n");
    }

    private void numbers() {
        Set<String> names = new TreeSet<>();
        metrics.lines().forEach(l -> names.addAll(l.keySet()));
        names.remove(MetricsWriter.STEP);
        if (names.isEmpty()) {
            return;
        }
        int every = Math.max(1, Math.ceilDiv(metrics.lines().size(), ROWS));
        out.append("<section><details><summary>The numbers");
        if (every > 1) {
            out.append(" (one line in ").append(every).append(" of ").append(Metrics.FILE).append(')');
        }
        out.append("</summary><div class=\"scroll\"><table><thead><tr><th class=\"n\">step</th>");
        names.forEach(n -> out.append("<th class=\"n\">").append(escape(n)).append("</th>"));
        out.append("</tr></thead><tbody>");
        for (int i = 0; i < metrics.lines().size(); i += every) {
            Map<String, Double> line = metrics.lines().get(i);
            out.append("<tr><td class=\"n\">").append(Markup.number(line.get(MetricsWriter.STEP))).append("</td>");
            names.forEach(n -> out.append("<td class=\"n\">")
                    .append(line.containsKey(n) ? Markup.number(line.get(n)) : "").append("</td>"));
            out.append("</tr>");
        }
        out.append("</tbody></table></div></details></section>\n");
    }
}
