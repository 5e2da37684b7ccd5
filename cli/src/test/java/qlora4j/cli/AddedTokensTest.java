package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.cli.Ran.run;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.DecoderConfig;
import qlora4j.model.Tokenizer;

/** Special tokens from the command line to the merged model. */
class AddedTokensTest {
    private static final String ADAPTER = "adapter_model.safetensors";

    @TempDir
    private static Path folder;
    private static Path model;
    private static Path data;

    @BeforeAll
    static void files() throws IOException {
        model = TinyModel.write(folder.resolve("model"), 1);
        data = Files.writeString(folder.resolve("data.jsonl"), """
                {"prompt": "<|tool|> one", "completion": " 1 <|end_tool|>"}
                {"prompt": "<|tool|> two", "completion": " 2 <|end_tool|>"}
                {"prompt": "<|tool|> three", "completion": " 3 <|end_tool|>"}
                """);
    }

    private static List<String> finetune(String output, String... more) {
        List<String> arguments = new ArrayList<>(List.of("finetune", "--model", model.toString(), "--data",
                data.toString(), "--output", folder.resolve(output).toString(), "--max-seq-length", "64",
                "--learning-rate", "1e-2", "--save-steps", "2"));
        arguments.addAll(List.of(more));
        return arguments;
    }

    @Test
    void tokensAreTrainedSavedUsedAndMerged() throws IOException {
        int vocab = DecoderConfig.read(model.resolve("config.json")).vocab();
        String[] tokens = {"--add-special-tokens", "<|tool|>,<|end_tool|>"};
        List<String> run = finetune("a", tokens);
        run.addAll(List.of("--max-steps", "4"));
        Ran trained = run(run);
        assertThat(trained.code()).as(trained.err()).isZero();
        Path adapter = folder.resolve("a");
        int[] ids;
        try (Tokenizer tokenizer = Tokenizer.open(adapter); PeftAdapter file = PeftAdapter.open(adapter)) {
            ids = tokenizer.encode("<|tool|><|end_tool|>", false);
            assertThat(ids).as("one token each").hasSize(2);
            assertThat(file.config().tokens().indices().values()).allSatisfy(
                    t -> assertThat(t).containsExactly(ids[0], ids[1]));
        }
        // Stopped after a checkpoint and resumed: the same bytes. Other tokens are another run.
        List<String> part = finetune("b", tokens);
        part.addAll(List.of("--max-steps", "4"));
        assertThat(run(part).code()).isZero();
        Files.delete(folder.resolve("b").resolve(ADAPTER));
        removeTree(folder.resolve("b/checkpoint-4"));
        part.add("--resume");
        Ran resumed = run(part);
        assertThat(resumed.code()).as(resumed.err()).isZero();
        assertThat(resumed.out()).contains("resuming from " + folder.resolve("b/checkpoint-2"));
        assertThat(folder.resolve("b/run.json")).content().contains("resumed from", "checkpoint-2; the time");
        assertThat(folder.resolve("b").resolve(ADAPTER)).hasSameBinaryContentAs(adapter.resolve(ADAPTER));
        part.set(part.indexOf("<|tool|>,<|end_tool|>"), "<|tool|>,<|end_tool|>,<|third|>");
        Ran other = run(part);
        assertThat(other.code()).isNotZero();
        assertThat(other.err()).contains("--add-special-tokens");

        List<String> generate = List.of("generate", "--model", model.toString(), "--prompt", "<|tool|> one",
                "--max-new-tokens", "5");
        List<String> with = new ArrayList<>(generate);
        with.addAll(List.of("--adapter", adapter.toString()));
        Ran said = run(with);
        assertThat(said.code()).as(said.err()).isZero();

        Ran scored = run("evaluate", "--model", model.toString(), "--data", data.toString(), "--adapter",
                "a=" + adapter, "--no-dense", "--max-seq-length", "64");
        assertThat(scored.code()).as(scored.err()).isZero();
        assertThat(count(scored.out(), "^a ")).as("fewer tokens than in the base's tokenizer, which spells the tags")
                .isPositive().isLessThan(count(scored.out(), "^base, 4-bit"));
        Ran chat = Ran.piped("<|tool|> one\n/reset\n/adapter base\n<|tool|> one\n", "chat", "--model", model.toString(),
                "--adapter", "a=" + adapter, "--use", "a", "--max-new-tokens", "3", "--temperature", "0", "--verbose");
        assertThat(chat.code()).as(chat.err()).isZero();
        List<Integer> prompts = Pattern.compile("(\\d+) prompt tokens").matcher(chat.err()).results()
                .map(m -> Integer.valueOf(m.group(1))).toList();
        assertThat(prompts).hasSize(2);
        assertThat(prompts.get(0)).as("in the adapter's own tokens").isLessThan(prompts.get(1));

        Ran merged = run("merge", "--model", model.toString(), "--adapter", adapter.toString(), "--output",
                folder.resolve("merged").toString(), "--into", "dequantized", "--dtype", "float32");
        assertThat(merged.code()).as(merged.err()).isZero();
        assertThat(DecoderConfig.read(folder.resolve("merged/config.json")).vocab())
                .isEqualTo(Math.max(vocab, ids[1] + 1));
        assertThat(folder.resolve("merged/tokenizer.json")).hasSameBinaryContentAs(adapter.resolve("tokenizer.json"));
        assertThat(model.resolve("tokenizer.json")).as("the model's own stays")
                .content().doesNotContain("<|tool|>");
    }

    /** The tokens that a line of the table counts. */
    private static int count(String table, String name) {
        Matcher line = Pattern.compile(name + "\\s*([\\d,]+)", Pattern.MULTILINE).matcher(table);
        assertThat(line.find()).as(table).isTrue();
        return Integer.parseInt(line.group(1).replace(",", ""));
    }

    @Test
    void idsThatTheModelLacksAreRefused() {
        Ran ran = run(finetune("c", "--trainable-token-indices", "5,99999999", "--max-steps", "1"));
        assertThat(ran.code()).isNotZero();
        assertThat(ran.err()).contains("--trainable-token-indices 99999999", "--add-special-tokens");
    }

    private static void removeTree(Path directory) throws IOException {
        try (java.util.stream.Stream<Path> files = Files.walk(directory)) {
            for (Path file : files.sorted(java.util.Comparator.reverseOrder()).toList()) {
                Files.delete(file);
            }
        }
    }
}
