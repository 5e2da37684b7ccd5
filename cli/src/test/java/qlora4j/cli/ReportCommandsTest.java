package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What {@code finetune} and {@code report} leave to look at. */
class ReportCommandsTest {
    @TempDir
    private Path folder;
    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(String... arguments) {
        return Main.execute(Main.commandLine().setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true)),
                arguments);
    }

    @Test
    void aRunHasAPageWithHostilePromptsEscapedAndEventFiles() throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), 7);
        StringBuilder rows = new StringBuilder();
        for (int i = 0; i < 8; i++) {
            rows.append("{\"prompt\": \"Say </script><script>alert(").append(i)
                    .append(")</script>\", \"completion\": \"It is 3.\"}\n");
        }
        Path data = Files.writeString(folder.resolve("rows.jsonl"), rows);
        Path output = folder.resolve("out");
        List<String> finetune = new ArrayList<>(List.of("finetune", "--model", model.toString(), "--data",
                data.toString(), "--output", output.toString(), "--lora-r", "4", "--per-device-train-batch-size", "2",
                "--logging-steps", "1", "--max-steps", "3", "--eval-split", "0.25", "--report-samples", "2",
                "--report-to", "tensorboard", "--threads", "2"));
        assertThat(run(finetune.toArray(String[]::new))).as(err.toString()).isZero();
        assertThat(out.toString()).contains("report: " + output.resolve("report.html"));
        String page = Files.readString(output.resolve("report.html"));
        assertThat(page).contains("&lt;/script&gt;&lt;script&gt;alert(", "Held-out prompts", "before: the base model",
                "aria-label=\"Loss\"", "<th scope=\"row\">--lora-r</th><td>4</td>", "backend", "together")
                .doesNotContain("<script>alert");
        assertThat(page.split("class=\"sample\"", -1)).hasSize(3);
        Path events = events(output).getFirst();

        Files.delete(output.resolve("report.html"));
        assertThat(run("report", output.toString())).as(err.toString()).isZero();
        assertThat(output.resolve("report.html")).content().isEqualTo(page);

        Path other = Files.writeString(output.resolve("runs/notes.txt"), "mine");
        finetune.add("--overwrite-output-dir");
        finetune.set(finetune.indexOf("tensorboard"), "none");
        assertThat(run(finetune.toArray(String[]::new))).as(err.toString()).isZero();
        assertThat(events.getParent()).as("the earlier run's").doesNotExist();
        assertThat(other).exists();
    }

    /** The event files of a run. */
    private static List<Path> events(Path output) throws IOException {
        try (Stream<Path> runs = Files.walk(output.resolve("runs"))) {
            List<Path> files = runs.filter(f -> f.getFileName().toString().startsWith("events.out.tfevents."))
                    .toList();
            assertThat(files).hasSize(1);
            return files;
        }
    }

    @Test
    void inspectDrawsWhatQuantizationLoses() throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), 7);
        Path pictures = folder.resolve("pictures");
        assertThat(run("inspect", model.toString(), "--plot", pictures.toString())).as(err.toString()).isZero();
        assertThat(out.toString()).contains("measured: model.layers.1.mlp.up_proj.weight", "NF4  RMS error",
                "picture: " + pictures.resolve("nf4-levels.svg"));
        assertThat(pictures.resolve("error-by-layer.svg")).content().startsWith("<svg");

        Path nf4 = folder.resolve("nf4");
        assertThat(run("quantize", "--model", model.toString(), "--output", nf4.toString())).isZero();
        assertThat(run("inspect", nf4.toString(), "--plot", pictures.toString())).isEqualTo(2);
        assertThat(err.toString()).contains("is in 4 bits already", "give the dense model");
    }

    @Test
    void whatMakesNoSenseIsRefused() {
        assertThat(run("report", folder.toString())).isEqualTo(2);
        assertThat(err.toString()).contains("there is no metrics.jsonl");
        assertThat(
                run("finetune", "--model", "m", "--data", "d", "--output", folder.toString(), "--report-to", "wandb"))
                .isEqualTo(2);
        assertThat(err.toString()).contains("--report-to wandb: expected tensorboard or none");
    }
}
