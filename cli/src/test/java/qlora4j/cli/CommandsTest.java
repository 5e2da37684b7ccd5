package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.cli.Ran.run;

import java.io.IOException;
import java.lang.ProcessBuilder.Redirect;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The commands in one process, on a tiny model. */
class CommandsTest {
    private static final String ADAPTER = "adapter_model.safetensors";

    /** The started JVM's main: the command line alone, without the launcher's descriptors. */
    static final class Child {
        public static void main(String[] args) {
            System.exit(Main.execute(Main.commandLine(), args));
        }
    }

    @TempDir
    private Path folder;
    private Path model;
    private Path data;

    @BeforeEach
    void files() throws IOException {
        model = TinyModel.write(folder.resolve("model"), 7);
        data = TinyModel.data(folder.resolve("rows.jsonl"), 12);
    }

    private List<String> finetune(Path output, String... more) {
        List<String> arguments = new ArrayList<>(List.of("finetune", "--model", model.toString(), "--data",
                data.toString(), "--output", output.toString(), "--lora-r", "4", "--per-device-train-batch-size", "2",
                "--learning_rate=0.01", "--logging-steps", "1", "--max-seq-length", "96", "--threads", "2"));
        arguments.addAll(List.of(more));
        return arguments;
    }

    @Test
    void trainsAnAdapterThatGenerateUses() throws IOException {
        Path output = folder.resolve("out");
        Ran trained = run(finetune(output, "--max-steps", "3", "--eval-split", "0.25", "--gradient_checkpointing"));
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(output.resolve("adapter_config.json")).isNotEmptyFile();
        assertThat(output.resolve(ADAPTER)).isNotEmptyFile();
        assertThat(output.resolve("metrics.jsonl")).isNotEmptyFile();
        assertThat(trained.out().lines()).anyMatch(l -> l.startsWith("data: 9 rows: 9 kept"))
                .anyMatch(l -> l.startsWith("held out: 3 rows: 3 kept"))
                .anyMatch(l -> l.startsWith("step 0: held-out NLL")).anyMatch(l -> l.startsWith("step 3: held-out NLL"))
                .anyMatch(l -> l.startsWith("step 3/3  loss ")).anyMatch(l -> l.startsWith("memory at its peak: "))
                .anyMatch(l -> l.equals("adapter: " + output));
        assertThat(trained.out().indexOf("memory predicted: ")).isBetween(0,
                trained.out().indexOf("trainable params: "));
        String predicted = lineAfter(trained.out(), "memory predicted: ");
        String measured = lineAfter(trained.out(), "memory measured:  ");
        assertThat(measured).isEqualTo(predicted);

        Ran text = run("generate", "--model", model.toString(), "--adapter", "mine=" + output, "--all", "--chat",
                "--prompt", "Say the number 3.", "--max-new-tokens", "5", "--temperature", "0");
        assertThat(text.code()).as(text.err()).isZero();
        assertThat(text.out().lines().toList()).containsExactlyElementsOf(Stream.of("base", "mine").flatMap(
                name -> Stream.concat(Stream.of("[" + name + "]"), run("generate", "--model", model.toString(),
                        "--adapter", "mine=" + output, "--use", name, "--chat", "--prompt", "Say the number 3.",
                        "--max-new-tokens", "5", "--temperature", "0").out().lines()))
                .toList());
        assertThat(text.err()).contains("backend: ").contains("2 texts, ");
    }

    private static String lineAfter(String text, String start) {
        return text.lines().filter(l -> l.startsWith(start)).findFirst().orElseThrow().substring(start.length());
    }

    @Test
    void aKilledRunResumesToTheSameBytes() throws Exception {
        Path whole = folder.resolve("whole");
        String[] run = {"--max-steps", "24", "--save-steps", "1", "--save-total-limit", "3"};
        assertThat(run(finetune(whole, run)).code()).isZero();

        Path killed = folder.resolve("killed");
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java")
                .toString(), "--add-modules", "jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED",
                "--add-opens=java.base/java.nio=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow", "-cp",
                System.getProperty("java.class.path"), Child.class.getName()));
        command.addAll(finetune(killed, run));
        Process process = new ProcessBuilder(command).redirectOutput(Redirect.DISCARD)
                .redirectError(folder.resolve("killed.err()").toFile()).start();
        while (process.isAlive() && checkpoints(killed).size() < 2) {
            process.waitFor(1, TimeUnit.MILLISECONDS);
        }
        process.destroyForcibly().waitFor();
        assertThat(killed.resolve(ADAPTER)).as(Files.readString(folder.resolve("killed.err()"))).doesNotExist();
        assertThat(checkpoints(killed)).isNotEmpty();

        List<String> again = finetune(killed, run);
        again.add("--resume");
        Ran resumed = run(again);
        assertThat(resumed.code()).as(resumed.err()).isZero();
        assertThat(resumed.out()).contains("resuming from " + killed.resolve("checkpoint-"));
        assertThat(killed.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
        assertThat(killed.resolve("adapter_config.json"))
                .hasSameBinaryContentAs(whole.resolve("adapter_config.json"));
    }

    private static List<Path> checkpoints(Path output) throws IOException {
        if (!Files.isDirectory(output)) {
            return List.of();
        }
        try (Stream<Path> files = Files.list(output)) {
            return files.filter(f -> f.getFileName().toString().startsWith("checkpoint-")).toList();
        }
    }

    @Test
    void resumeWithoutACheckpointStartsAnew() {
        Path output = folder.resolve("out");
        Ran ran = run(finetune(output, "--max-steps", "1", "--resume"));
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("no checkpoint in " + output + ": starting anew");
    }

    @Test
    void anAdapterIsNotOverwrittenUnasked() {
        Path output = folder.resolve("out");
        assertThat(run(finetune(output, "--max-steps", "1")).code()).isZero();
        Ran refused = run(finetune(output, "--max-steps", "1"));
        assertThat(refused.code()).isEqualTo(2);
        assertThat(refused.err()).contains("qlora: --output " + output, "--overwrite-output-dir", "--resume");
        assertThat(run(finetune(output, "--max-steps", "1", "--overwrite-output-dir", "--eval-split", "2")).code())
                .isEqualTo(2);
        assertThat(output.resolve(ADAPTER)).as("a refused run deletes nothing").exists();
        assertThat(run(finetune(output, "--max-steps", "1", "--overwrite_output_dir")).code()).isZero();
    }

    /** A 4-bit directory holds what loading the dense model in 4 bits gives, so both write the same text. */
    @Test
    void trainsAVariantInEightBitsAndMergesIt() throws IOException {
        Path output = folder.resolve("variant");
        Ran trained = run(finetune(output, "--max-steps", "3", "--use-dora", "--use-rslora", "--rank-pattern",
                "q_proj=2", "--alpha-pattern", "v_proj=8", "--layers-to-transform", "1", "--modules-to-save", "norm",
                "--loraplus-lr-ratio", "4", "--optim", "paged_adamw_8bit", "--optim-resident", "50%"));
        assertThat(trained.code()).as(trained.err()).isZero();
        Ran inspected = run("inspect", output.toString());
        assertThat(inspected.out()).contains(
                "in layers [1], rank-stabilized, DoRA, ranks {q_proj=2}, alphas {v_proj=8.0}",
                "modules to save [norm]", "base_model.model.model.norm.weight",
                "layers.1.self_attn.q_proj.lora_magnitude_vector");
        assertThat(inspected.out()).doesNotContain("layers.0.self_attn.q_proj");

        Path merged = folder.resolve("merged");
        Ran ran = run("merge", "--model", model.toString(), "--adapter", output.toString(), "--output",
                merged.toString(), "--into", "dequantized", "--dtype", "float32");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("model.layers.1.mlp.up_proj.weight: delta ", "error/delta ",
                "into dequantized weights");
        assertThat(ran.err()).doesNotContain("trained on");
        assertThat(greedy(merged)).isNotBlank();
        Ran again = run("merge", "--model", model.toString(), "--adapter", output.toString(), "--output",
                merged.toString());
        assertThat(again.code()).isEqualTo(2);
        assertThat(again.err()).contains("a model is there already");
    }

    @Test
    void quantizesToADirectoryThatLoads() {
        Path output = folder.resolve("nf4");
        Ran ran = run("quantize", "--model", model.toString(), "--output", output.toString());
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("bits/param", "MB before", "mean absolute error", "largest error");
        assertThat(greedy(output)).isEqualTo(greedy(model)).isNotBlank();

        Ran inspected = run("inspect", output.toString());
        assertThat(inspected.code()).as(inspected.err()).isZero();
        assertThat(inspected.out()).contains("metadata: format = pt", "4-bit together: 14 layers", "U8: ", "F32: ")
                .contains(
                        "model.layers.1.mlp.up_proj.weight  nf4[48, 32] (blocks of 64, double quantization, was F32)");

        Ran again = run("quantize", "--model", model.toString(), "--output", output.toString());
        assertThat(again.code()).isEqualTo(2);
        assertThat(again.err()).contains("a model is there already");
        Ran twice = run("quantize", "--model", output.toString(), "--output", folder.resolve("x").toString());
        assertThat(twice.code()).isEqualTo(2);
        assertThat(twice.err()).contains("the model is in 4 bits already");
    }

    private static String greedy(Path directory) {
        Ran ran = run("generate", "--model", directory.toString(), "--prompt", "Say", "--max-new-tokens", "8",
                "--temperature", "0");
        assertThat(ran.code()).as(ran.err()).isZero();
        return ran.out();
    }

    @Test
    void errorsAreOneLineAndNameWhatIsWrong() throws IOException {
        Path broken = Files.writeString(folder.resolve("broken.jsonl"), "{\"instruction\": \n");
        Path out = folder.resolve("out");
        assertError(finetune(out, "--packings"), "Unknown option: '--packings'");
        assertError(finetune(out, "--packing", "--packing-strategy", "wrapped"),
                "--packing-strategy wrapped: only bfd");
        assertError(finetune(out, "--optim", "sgd"), "--optim sgd: expected");
        assertError(finetune(out, "--lr-scheduler-type", "steep"), "--lr-scheduler-type steep: expected one of");
        assertError(finetune(out, "--lora-dropout", "1"), "--lora-dropout 1.0: must be");
        assertError(List.of("generate", "--model", folder.resolve("none").toString(), "--prompt", "x"),
                "none: there is no such directory");
        assertError(List.of("generate", "--model", model.toString(), "--prompt", "x", "--use", "a"), "--use a");
        assertError(List.of("generate", "--model", model.toString(), "--prompt", "x", "--backend", "abacus"),
                "--backend abacus");
        assertError(List.of("generate", "--model", model.toString(), "--prompt", "x", "--vector-bits", "100"),
                "--vector-bits 100: expected 128, 256 or 512");
        assertError(List.of("quantize", "--model", model.toString(), "--output", out.toString(), "--blocksize", "63"),
                "--blocksize 63: expected a power of two");
        assertError(List.of("inspect", broken.toString()), broken.toString());
        assertError(finetune(out, "--device", "cuda:99"), "--backend cuda --device cuda:99: ");
        assertError(finetune(out, "--adam-beta1", "2"), "--adam-beta1 2.0: must be");
        assertError(finetune(out, "--max-grad-norm", "0"), "(Infinity: no clipping)");
        assertError(generate("--prompt", ""), "--prompt: the prompt is empty");
        assertError(generate("--prompt", "Say ".repeat(5000)), "give a shorter one");
        assertError(generate("--prompt", "Say", "--max-new-tokens", "1000000"), "--max-new-tokens 1000000: ");
        assertError(generate("--prompt", "Say", "--stop", ""), "--stop: ");
        assertError(List.of("inspect", model.resolve("config.json").toString()), "give the directory");
        assertError(List.of("verify", folder.resolve("none").toString()), "none: there is no such folder");
    }

    private List<String> generate(String... more) {
        List<String> arguments = new ArrayList<>(List.of("generate", "--model", model.toString()));
        arguments.addAll(List.of(more));
        return arguments;
    }

    /** Two files cut after their first brace: what Jackson says of its own source is left out. */
    @Test
    void whatTheBackendCannotDoIsSaidBeforeTheModelIsLoaded() {
        Ran refused = run(finetune(folder.resolve("out"), "--gradient-checkpointing", "--offload-activations",
                "--backend", "cpu"));
        assertThat(refused.code()).isEqualTo(2);
        assertThat(refused.err()).contains("--offload-activations moves layer inputs from a GPU", "--backend cuda");
        assertThat(refused.out()).doesNotContain("memory predicted", "trainable params");
    }

    @Test
    void aJsonFileThatIsCutIsNamedInOneLine() throws IOException {
        Path adapter = Files.createDirectory(folder.resolve("adapter"));
        Files.copy(model.resolve("model.safetensors"), adapter.resolve(ADAPTER));
        Files.writeString(adapter.resolve("adapter_config.json"), "{\n");
        Ran ran = run(generate("--prompt", "Say", "--adapter", adapter.toString()));
        assertThat(ran.code()).isEqualTo(2);
        assertThat(ran.err().lines().filter(l -> !l.startsWith("backend: "))).hasSize(1).first().asString()
                .startsWith("qlora: " + adapter).contains("not valid JSON").doesNotContain("REDACTED");
        Files.writeString(model.resolve("config.json"), "{\n");
        Ran base = run(generate("--prompt", "Say"));
        assertThat(base.err().lines()).hasSize(1).first().asString().startsWith("qlora: " + model)
                .contains("not valid JSON").doesNotContain("REDACTED");
    }

    /** The names of two layers of unlike shapes are exchanged, as if the adapter came from a model of other widths. */
    @Test
    void anAdapterOfAnotherModelIsRefusedByItsName() throws IOException {
        Path adapter = folder.resolve("adapter");
        assertThat(run(finetune(adapter, "--max-steps", "1")).code()).isZero();
        String bytes = Files.readString(adapter.resolve(ADAPTER), StandardCharsets.ISO_8859_1);
        Files.writeString(adapter.resolve(ADAPTER), bytes.replace("down_proj", "____proj").replace("gate_proj",
                "down_proj").replace("____proj", "gate_proj"), StandardCharsets.ISO_8859_1);
        assertError(generate("--prompt", "Say", "--adapter", adapter.toString()),
                "was it trained on another model?");
    }

    @Test
    void aRowLongerThanTheModelIsRefusedBeforeTheModelIsLoaded() throws IOException {
        Files.writeString(data, "{\"instruction\": \"" + "Say ".repeat(5000) + "\", \"output\": \"x\"}\n");
        List<String> arguments = finetune(folder.resolve("out"));
        arguments.set(arguments.indexOf("--max-seq-length") + 1, "100000");
        assertError(arguments, "--max-seq-length 100000: a row has ");
    }

    private static void assertError(List<String> arguments, String said) {
        Ran ran = run(arguments);
        assertThat(ran.code()).as("%s: %s", arguments, ran.err()).isEqualTo(2);
        assertThat(ran.err()).contains("qlora: ", said).doesNotContain("\tat ");
    }

    @Test
    void aRowThatIsNoJsonIsNamedByFileAndLine() throws IOException {
        Path broken =
                Files.writeString(folder.resolve("broken.jsonl"), Files.readString(data) + "{\"instruction\": 3\n");
        List<String> arguments = finetune(folder.resolve("out"));
        arguments.set(arguments.indexOf("--data") + 1, broken.toString());
        assertError(arguments, broken.toString());
    }

    /** A warning of the libraries is one line, printed once. */
    @Test
    void tokensThatOnlyTheModelHasAreNoText() throws IOException {
        String padded = TinyModel.write(folder.resolve("padded"), 3, 64).toString();
        Ran ran = run("generate", "--model", padded, "--prompt", "Say", "--max-new-tokens", "5", "--temperature", "0");
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).isBlank();
        assertThat(ran.err()).contains(" 5 new,");
    }

    @Test
    void warningsAreSingleLines() throws IOException {
        Files.writeString(model.resolve("generation_config.json"), "{\"eos_token_id\": 2, \"num_beams\": 4}");
        Ran ran = run("generate", "--model", model.toString(), "--prompt", "Say", "--max-new-tokens", "1");
        assertThat(ran.err().lines().filter(l -> l.contains("num_beams"))).hasSize(1).first().asString()
                .startsWith("warning: " + model);
    }

    @ParameterizedTest
    @CsvSource({"--lora_r=8,--lora-r=8", "--learning_rate,--learning-rate", "a_b,a_b", "--no_such,--no_such",
            "--adapter=a_b=c_d,--adapter=a_b=c_d"})
    void underscoresInFlagsAreHyphens(String given, String meant) {
        assertThat(Spelling.withHyphens(Main.commandLine(), given)).containsExactly(meant);
    }
}
