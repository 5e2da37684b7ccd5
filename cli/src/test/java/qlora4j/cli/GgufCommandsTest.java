package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** {@code export} and {@code import}, there and back. */
class GgufCommandsTest {
    @TempDir
    private Path folder;

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(Object... arguments) {
        String[] texts = new String[arguments.length];
        for (int i = 0; i < texts.length; i++) {
            texts[i] = arguments[i].toString();
        }
        out.getBuffer().setLength(0);
        err.getBuffer().setLength(0);
        CommandLine line = Main.commandLine().setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        return Main.execute(line, texts);
    }

    @Test
    void aModelGoesOutAndComesBack() throws Exception {
        Path model = TinyModel.write(folder.resolve("model"), 7);
        Path file = folder.resolve("m.gguf");
        assertThat(run("export", model, file, "--outtype", "f32")).as(err.toString()).isZero();
        assertThat(out.toString()).startsWith("llama: ").contains("as F32").contains("file: " + file);
        assertThat(run("inspect", file)).isZero();
        assertThat(out.toString()).contains("blk.0.attn_q.weight").contains("general.architecture = 'llama'");
        Path back = folder.resolve("back");
        assertThat(run("import", file, back)).as(err.toString()).isZero();
        assertThat(out.toString()).contains("as F32").contains("model: " + back);
        assertThat(Files.mismatch(model.resolve("model.safetensors"), back.resolve("model.safetensors"))).isEqualTo(-1);
        assertThat(run("generate", "--model", back, "--prompt", "It is", "--max-new-tokens", "3", "--temperature", "0"))
                .as(err.toString()).isZero();
    }

    @Test
    void errorsNameWhatIsWrong() throws Exception {
        Path model = TinyModel.write(folder.resolve("model"), 7);
        assertThat(run("export", model, folder.resolve("m.gguf"), "--outtype", "q4_0")).isEqualTo(2);
        assertThat(err.toString()).contains("--outtype q4_0").contains("q8_0");
        assertThat(run("import", model.resolve("config.json"), folder.resolve("x"))).isEqualTo(2);
        assertThat(err.toString()).contains("config.json").contains("no GGUF file");
        assertThat(folder.resolve("x")).doesNotExist();
        assertThat(run("export", model, folder.resolve("m.gguf"), "--base", model)).isEqualTo(2);
        assertThat(err.toString()).contains("--base");
    }
}
