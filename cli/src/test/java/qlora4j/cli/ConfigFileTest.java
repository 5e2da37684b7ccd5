package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What {@code --config} makes of a file. */
class ConfigFileTest {
    @TempDir
    private Path folder;

    private Path yaml(String text) throws IOException {
        return Files.writeString(folder.resolve("run.yaml"), text);
    }

    private List<String> expand(Path file, String... more) throws IOException {
        String[] arguments = new String[3 + more.length];
        arguments[0] = "finetune";
        arguments[1] = "--config";
        arguments[2] = file.toString();
        System.arraycopy(more, 0, arguments, 3, more.length);
        return List.of(ConfigFile.expand(Main.commandLine(), arguments));
    }

    @Test
    void keysAreFlagsAndTheCommandLineWins() throws IOException {
        Path file = yaml("""
                # a run
                model: "some dir/model"
                learning_rate: 2e-4
                lora-r: 8
                gradient_checkpointing: true
                max_grad_norm: .inf
                target_modules: [q_proj, v_proj]
                rank_pattern: {q_proj: 4, "k.*": 2}
                """);
        assertThat(expand(file, "--lora-r", "16")).containsExactly("finetune", "--model=some dir/model",
                "--learning-rate=2e-4", "--gradient-checkpointing=true", "--max-grad-norm=Infinity",
                "--target-modules=q_proj,v_proj", "--rank-pattern=q_proj=4,k.*=2", "--config", file.toString(),
                "--lora-r", "16");
        assertThat(expand(file, "--lora-r=16", "--model=x", "--", "--learning-rate")).doesNotContain(
                "--model=some dir/model", "--lora-r=8").contains("--learning-rate=2e-4");
    }

    @Test
    void flagsWithoutAValueAreTrueOrLeftOut() throws IOException {
        Path file = yaml("no_dense: true\nadapter:\n  - a=x\n  - b=y\n");
        assertThat(ConfigFile.expand(Main.commandLine(), "evaluate", "--config=" + file)).containsExactly("evaluate",
                "--no-dense", "--adapter=a=x", "--adapter=b=y", "--config=" + file);
        Path off = yaml("no_dense: false\n");
        assertThat(ConfigFile.expand(Main.commandLine(), "evaluate", "--config=" + off)).containsExactly("evaluate",
                "--config=" + off);
        assertThat(expand(yaml("# nothing\n"))).hasSize(3);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"lora_r: 8|learning_rte: 1|line 2: learning_rte is no flag of finetune;"
            + " the nearest is learning-rate", "lora_r: 8|lora_r: 9|line 2: not valid YAML: Duplicate field 'lora_r'",
            "lora_r: [1, 2]||line 1: lora_r takes one value, not 2", "lora_r:||line 1: lora_r has no value",
            "lora_r: [[1]]||line 1: lora_r has a value that no flag can have", "- a||line 1: a mapping of flags",
            "lora_r: 'b||not valid YAML", "config: other.yaml||config is no flag"})
    void aMistakeIsNamedWithItsLine(String first, String second, String message) throws IOException {
        Path file = yaml(first + "\n" + (second == null ? "" : second + "\n"));
        assertThatThrownBy(() -> expand(file)).hasMessageContaining(file.toString()).hasMessageContaining(message);
    }

    /** As a user sees it: one line, exit code 2; and the file's flags reach the command. */
    @Test
    void theCommandRunsWithTheFile() throws IOException {
        assertThat(run("plan", "--config", yaml("shape: tiny\nlora_r: 4\nbackend: cpu\n").toString()))
                .startsWith("0 tiny:");
        assertThat(run("plan", "--config", yaml("shap: tiny\n").toString())).startsWith("2 qlora: ")
                .contains("run.yaml, line 1: shap is no flag of plan; the nearest is shape").doesNotContain("\tat ");
        assertThat(run("plan", "--config", folder.resolve("none.yaml").toString())).contains("there is no such file");
    }

    private static String run(String... arguments) {
        StringWriter said = new StringWriter();
        PrintWriter to = new PrintWriter(said, true);
        int code = Main.execute(Main.commandLine().setOut(to).setErr(to), arguments);
        return code + " " + said;
    }
}
