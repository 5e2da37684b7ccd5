package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.DecoderLoader;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.PromptTemplate;
import qlora4j.train.data.Rows;
import qlora4j.train.data.TokenizedData;

/** The README's example of the Java API stands here, line for line, and runs. */
class ReadmeApiTest {
    private static final Path SOURCE = Path.of("src/test/java/qlora4j/train/ReadmeApiTest.java");
    private static final Path README = Path.of("../README.md");
    private static final int MOST_LINES = 15;

    @TempDir
    private Path directory;

    private static void example(Path model, Path data, Path output) throws IOException {
        try (Backend backend = Backends.open("auto");
                CausalLm lm = CausalLm.load(model, backend, DecoderLoader.QLORA)) {
            Adapter adapter = lm.attach("mine",
                    new LoraConfig(16, 16, 0.05, List.of(LoraConfig.ALL_LINEAR), model.toString(), 42));
            System.out.println(lm.report(adapter).line());
            TrainSettings settings = TrainSettings.defaults().withMaxSteps(30).withBatch(4, 128);
            PromptTemplate template = SftTrainer.template(lm.directory(), "alpaca");
            TokenizedData rows = SftTrainer.tokenize(lm.directory(), Rows.read(data), template, settings.maxLength());
            try (SftTrainer trainer = new SftTrainer(lm, adapter, rows, null, settings, output)) {
                trainer.run(new SftTrainer.Listener() {
                });
            }
            System.out.println(lm.generate("mine", "### Instruction:\nSay hello", GenerateOptions.greedy(40)));
            System.out.println(lm.generate(CausalLm.BASE, "### Instruction:\nSay hello", GenerateOptions.greedy(40)));
        }
    }

    @Test
    void theReadmeShowsTheseLines() throws IOException {
        List<String> readme = Files.readAllLines(README);
        int heading = readme.indexOf("## Java API");
        assertThat(heading).as("the heading").isNotNegative();
        List<String> after = readme.subList(heading, readme.size());
        int from = after.indexOf("```java") + 1;
        assertThat(from).isPositive();
        List<String> shown = stripped(after.subList(from, from + after.subList(from, after.size()).indexOf("```")));
        List<String> source = stripped(Files.readAllLines(SOURCE));
        int begin =
                source.indexOf("private static void example(Path model, Path data, Path output) throws IOException {");
        assertThat(begin).isNotNegative();
        assertThat(source.subList(begin + 1, begin + 1 + shown.size())).isEqualTo(shown);
        assertThat(source.get(begin + 1 + shown.size())).as("nothing of the method is left out").isEqualTo("}");
        assertThat(shown).hasSizeBetween(10, MOST_LINES);
    }

    private static List<String> stripped(List<String> lines) {
        return lines.stream().map(String::strip).toList();
    }

    @Test
    void theReadmesExampleRuns() throws IOException {
        Path model = TinyRun.model(directory.resolve("model"));
        Path data = directory.resolve("rows.jsonl");
        Files.writeString(data, """
                {"instruction": "Say hello", "output": "hello there"}
                {"instruction": "Name a colour", "input": "warm", "output": "red"}
                {"instruction": "Count", "output": "one two three"}
                """);
        Path output = directory.resolve("output");
        PrintStream console = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            example(model, data, output);
        } finally {
            System.setOut(console);
        }
        String text = printed.toString(StandardCharsets.UTF_8);
        assertThat(text).startsWith("trainable params: ");
        assertThat(text.lines().count()).as("a report and two texts").isGreaterThanOrEqualTo(3);
        assertThat(output.resolve("adapter_config.json")).isNotEmptyFile();
        assertThat(output.resolve("adapter_model.safetensors")).isNotEmptyFile();
        assertThat(output.resolve("metrics.jsonl")).isNotEmptyFile();
        try (Backend backend = Backends.open(Backend.SCALAR);
                CausalLm lm = CausalLm.load(model, backend, DecoderLoader.QLORA)) {
            lm.load("mine", output);
            assertThat(lm.adapter("mine").config().rank()).isEqualTo(16);
        }
    }
}
