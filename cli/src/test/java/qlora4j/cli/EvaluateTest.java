package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.cli.Ran.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@code evaluate}: an adapter that has learned two rows by heart, beside the base that has not. */
class EvaluateTest {
    @TempDir
    private Path folder;

    @Test
    void oneTableOfBaseFourBitsAndAdapters() throws IOException {
        String model = TinyModel.write(folder.resolve("model"), 7).toString();
        String data = TinyModel.data(folder.resolve("rows.jsonl"), 2).toString();
        String adapter = folder.resolve("out").toString();
        Ran trained = run("finetune", "--model", model, "--data", data, "--output", adapter, "--lora-r", "16",
                "--lora-dropout", "0", "--learning-rate", "0.02", "--max-steps", "70", "--lr-scheduler-type",
                "constant", "--save-steps", "0", "--threads",
                "2", "--modules-to-save", "embed_tokens");
        assertThat(trained.code()).as(trained.err()).isZero();
        Path json = folder.resolve("figures.json");
        Ran ran = run("evaluate", "--model", model, "--data", data, "--adapter", "mine=" + adapter, "--json",
                json.toString(), "--max-seq-length", "128", "--threads", "2");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("2 rows: ", "perplexity", "base, 4-bit").containsPattern("mine .* 2/2")
                .containsPattern("base .* 0/2");
        JsonNode results = new ObjectMapper().readTree(json.toFile()).path("results");
        assertThat(results.findValuesAsText("name")).containsExactly("base", "base, 4-bit", "mine");
        assertThat(results.get(2).path("exact_match").asDouble()).isEqualTo(1);
        assertThat(results.get(2).path("perplexity").asDouble()).isBetween(1.0, 10.0);
        assertThat(results.get(0).path("nll").asDouble()).isNotEqualTo(results.get(1).path("nll").asDouble())
                .isGreaterThan(1);
        assertThat(results.get(0).path("tokens").asLong()).isEqualTo(results.get(2).path("tokens").asLong());
    }

    @Test
    void aTextIsScoredInWindows() throws IOException {
        String model = TinyModel.write(folder.resolve("model"), 7).toString();
        String text = Files.writeString(folder.resolve("text.txt"), "Say the number 7. ".repeat(20)).toString();
        String packed = folder.resolve("nf4").toString();
        assertThat(run("quantize", "--model", model, "--output", packed).code()).isZero();
        Ran dense = run("evaluate", "--model", model, "--text", text, "--max-seq-length", "32", "--no-dense");
        assertThat(dense.code()).as(dense.err()).isZero();
        Ran four = run("evaluate", "--model", packed, "--text", text, "--max-seq-length", "32");
        assertThat(four.out()).contains("in 4 bits already", "32 apart");
        String line = dense.out().lines().filter(l -> l.startsWith("base, 4-bit")).findFirst().orElseThrow();
        assertThat(four.out()).as("the same weights, the same number").contains(line);

        int positions = new ObjectMapper().readTree(Path.of(model, "config.json").toFile())
                .path("max_position_embeddings").asInt();
        assertThat(positions).isLessThan(1024);
        assertThat(run("evaluate", "--model", model, "--text", text, "--no-dense").out())
                .contains("windows of up to " + positions + ", ");
        assertThat(run("evaluate", "--model", model).err()).contains("give --data FILE or --text FILE");
        assertThat(run("evaluate", "--model", model, "--text", text, "--max-seq-length", "100000").err())
                .contains("--max-seq-length 100000: the model was made for");
        assertThat(run("evaluate", "--model", model, "--text", text, "--per-device-eval-batch-size", "0").err())
                .contains("--per-device-eval-batch-size 0");
    }
}
