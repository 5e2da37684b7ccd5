package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@code explain-batch} and the flags of data, on a tiny model. */
class ExplainBatchTest {
    @TempDir
    private Path folder;
    private Path model;
    private Path data;

    @BeforeEach
    void files() throws IOException {
        model = TinyModel.write(folder.resolve("model"), 7);
        data = TinyModel.data(folder.resolve("rows.jsonl"), 12);
    }

    private Ran run(String command, Path rows, String... more) {
        List<String> arguments = new ArrayList<>(List.of(command, "--model", model.toString(), "--data",
                rows.toString(), "--per-device-train-batch-size", "2", "--max-seq-length", "96"));
        arguments.addAll(List.of(more));
        return Ran.run(arguments);
    }

    private Path talks(String... lines) throws IOException {
        return Files.write(folder.resolve("talks.jsonl"), List.of(lines));
    }

    @Test
    void showsEachTokenOfAStep() {
        Ran ran = run("explain-batch", data, "--template", "alpaca", "--gradient-accumulation-steps", "2");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("read " + data + ": JSON lines, 12 rows of instruction, input and output",
                "data: 12 rows: 12 kept", "step 1: 4 samples, ", "(micro-batch 2, segment 1): ",
                "no faults in 12 rows").doesNotContain("\u001b");
        assertThat(ran.out().lines()).anyMatch(l -> l.matches(" +0 +\\d+  \".*\" +prompt +template +0  0"))
                .anyMatch(l -> l.matches(".* completion +output +1  0\\.\\d+")).anyMatch(l -> l
                        .matches(".* prompt +instruction +0  0"))
                .anyMatch(l -> l.matches(".* - +added +1  0\\.\\d+"));
        assertThat(run("explain-batch", data, "--template", "alpaca", "--color", "always").out()).contains(
                "\u001b[1;32m",
                "\u001b[2m");
    }

    @Test
    void printsJsonWhoseWeightsSumToOne() throws IOException {
        Ran ran = run("explain-batch", data, "--template", "chat", "--packing", "--step", "2", "--json");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.err()).contains("packing: 12 rows in ");
        JsonNode root = new ObjectMapper().readTree(ran.out());
        double weights = 0;
        int masks = 0;
        for (JsonNode sample : root.get("samples")) {
            int position = 0;
            for (JsonNode token : sample.get("tokens")) {
                assertThat(token.get("position").asInt()).isEqualTo(position++);
                weights += token.get("weight").asDouble();
                masks += token.get("mask").asInt();
            }
        }
        assertThat(root.get("samples").size()).as("packed sequences hold several").isGreaterThan(2);
        assertThat(masks).isEqualTo(root.get("label_tokens").asInt());
        assertThat(weights).isBetween(1 - 1e-9, 1 + 1e-9);
        assertThat(root.get("faults")).isEmpty();
    }

    @Test
    void endsWithOneWhereRowsAreAtFault() throws IOException {
        String good = "{\"messages\":[{\"role\":\"user\",\"content\":\"Say 1.\"},{\"role\":\"assistant\","
                + "\"content\":\"One.\"}]}";
        Path rows = talks(good, "{\"messages\":[{\"role\":\"user\",\"content\":\"Say 2.\"}]}",
                good.replace("One.", "One ".repeat(200)));
        Ran ran = run("explain-batch", rows);
        assertThat(ran.code()).isEqualTo(1);
        assertThat(ran.out()).contains("FAULT zero labels in 1 rows", rows + ", line 2",
                "FAULT cut before the answer in 1 rows", rows + ", line 3");
        assertThat(run("explain-batch", talks(good)).code()).isZero();

        Files.writeString(model.resolve("chat_template.jinja"), "{% for m in messages %}<|im_start|>{{ m.role }}\n"
                + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}"
                + "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}");
        Ran unended = run("explain-batch", talks(good), "--assistant-only-loss", "--json");
        assertThat(unended.code()).isEqualTo(1);
        assertThat(unended.err()).contains("learned: answers are what the chat template's {% generation %} blocks mark",
                "in 1 rows no EOS is learned");
        assertThat(new ObjectMapper().readTree(unended.out()).at("/faults/untrained_eos").size()).isEqualTo(1);
    }

    @Test
    void readsCsvAndSplitsOfADirectory() throws IOException {
        Path set = Files.createDirectories(folder.resolve("set"));
        Files.writeString(set.resolve("train.csv"), "question,answer\nSay 1.,\"It is 1, yes.\"\nSay 2.,It is 2.\n");
        Files.writeString(set.resolve("test.csv"), "question,answer\nSay 3.,It is 3.\n");
        Ran ran = run("finetune", set, "--column-mapping", "instruction=question,output=answer",
                "--dataset_test_split", "test", "--output", folder.resolve("out").toString(), "--max-steps", "1",
                "--lora-r", "2");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("read " + set + ", split train (of test, train) in 1 file: CSV, 2 rows of",
                "held out: 1 rows: 1 kept");
    }

    @Test
    void aPackedRunGoesOnOnlyPacked() {
        String[] flags = {"--output", folder.resolve("out").toString(), "--lora-r", "2", "--max-steps", "2",
                "--save-steps", "1"};
        assertThat(run("finetune", data, with(flags, "--packing")).code()).isZero();
        Ran plain = run("finetune", data, with(flags, "--resume"));
        assertThat(plain.code()).isEqualTo(2);
        assertThat(plain.err()).contains("--packing true, this one has false");
        Ran packed = run("finetune", data, with(flags, "--resume", "--packing"));
        assertThat(packed.code()).as(packed.err()).isZero();
        assertThat(packed.out()).contains("packing: 12 rows in ", "resuming from ");
    }

    private static String[] with(String[] flags, String... more) {
        List<String> all = new ArrayList<>(List.of(flags));
        all.addAll(List.of(more));
        return all.toArray(String[]::new);
    }

    @Test
    void contradictionsAreNamed() {
        for (String[] flags : new String[][]{{"--assistant-only-loss", "--completion-only-loss", "false"},
                {"--eval-split", "0.5", "--dataset-test-split", "test"}, {"--step", "0"}, {"--color", "blue"}}) {
            Ran ran = run("explain-batch", data, flags);
            assertThat(ran.code()).isEqualTo(2);
            assertThat(ran.err()).contains("qlora: ", flags[0]);
        }
    }
}
