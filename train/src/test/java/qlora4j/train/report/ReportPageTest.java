package qlora4j.train.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.train.data.DataException;

/** The page of a run, as text. */
class ReportPageTest {
    @TempDir
    private Path folder;

    @Test
    void everyTextOfTheRunIsEscaped() {
        String page = ReportPage.html(SampleRun.metrics(), SampleRun.hostile());
        assertThat(page).doesNotContain("<script>alert", "<img src", "onerror=\"", "\u0000");
        assertThat(page.split("<script>", -1)).hasSize(2);
        assertThat(page.split("</script>", -1)).hasSize(2);
        assertThat(page).contains("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;",
                "&lt;/pre&gt;&lt;img src=x onerror=&quot;alert(2)&quot;&gt;", "&quot; onmouseover=&quot;alert(3)");
    }

    @Test
    void itAsksNothingOfTheNetworkAndRunsItsOwnScriptOnly() throws Exception {
        String page = ReportPage.html(SampleRun.metrics(), SampleRun.plain());
        assertThat(page).doesNotContainPattern("(?:src|href|action|poster)\\s*=").doesNotContain("url(", "@import");
        Matcher script = Pattern.compile("<script>(.*?)</script>", Pattern.DOTALL).matcher(page);
        assertThat(script.find()).isTrue();
        assertThat(page).contains("default-src 'none'; script-src 'sha256-" + Base64.getEncoder().encodeToString(
                MessageDigest.getInstance("SHA-256").digest(script.group(1).getBytes("UTF-8"))) + "'");
    }

    @Test
    void itShowsCurvesMemorySamplesConfigurationAndEnvironment() {
        String page = ReportPage.html(SampleRun.metrics(), SampleRun.plain());
        assertThat(page).contains("aria-label=\"Loss\"", "aria-label=\"Learning rate\"", "aria-label=\"Gradient norm\"",
                "aria-label=\"Speed\"", "nats per label token", "step 40\ntraining: 1.025\nsmoothed: ",
                "held out: 1.100", "predicted, MB", "<td class=\"n\">12.3</td><td class=\"n\">12.2</td>",
                "before: the base model", "ahoy", "--lora-r", "Java");
    }

    @Test
    void aRunThatWasBrokenOffHasAPageOfItsMetricsAlone() throws IOException {
        Files.writeString(folder.resolve("metrics.jsonl"),
                "{\"step\":0,\"eval_loss\":2.5}\n{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"lo");
        assertThat(ReportPage.write(folder)).isEqualTo(folder.resolve("report.html"));
        assertThat(folder.resolve("report.html")).content().contains("not ended when this page was written",
                "held out: 2.500", "training: 2").doesNotContain("Samples", "Memory");
    }

    @Test
    void recordsAreReadAsTheyWereWritten() throws IOException {
        RunRecord run = SampleRun.hostile();
        run.write(folder);
        assertThat(RunRecord.read(folder)).contains(run);
        Files.writeString(folder.resolve("run.json"), "{");
        assertThatThrownBy(() -> RunRecord.read(folder)).isInstanceOf(DataException.class).hasMessageContaining(
                "run.json: not a run's record");
        Files.writeString(folder.resolve("metrics.jsonl"), "{\"step\":1}\n{\"steps\":1}\n");
        assertThatThrownBy(() -> Metrics.read(folder.resolve("metrics.jsonl"))).isInstanceOf(DataException.class)
                .hasMessageContaining("metrics.jsonl:2: no \"step\"");
    }

    @Test
    void nothingLoggedIsSaid() {
        assertThat(ReportPage.html(new Metrics(List.of()),
                RunRecord.begun("t", "now", Map.of(), Map.of(), Map.of(), Map.of()))).contains(
                        "No step has been logged");
    }
}
