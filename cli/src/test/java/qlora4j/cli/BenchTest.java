package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import picocli.CommandLine;

/** {@code qlora bench}: what it prints and what it refuses; the figures themselves are tested where they are made. */
class BenchTest {
    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    private int run(String... arguments) {
        CommandLine line = Main.commandLine().setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        return Main.execute(line, arguments);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"bench sprint|sprint: expected ceilings, kernels, train, decode",
            "bench --shape gpt-5|--shape gpt-5: expected one of tiny, smollm2-135m",
            "bench kernels --matrix 4096|--matrix 4096: expected rows and columns",
            "bench --shape tiny --model DIR|--shape and --model contradict",
            "bench --seconds 0|--seconds 0.0: must be above 0",
            "bench train --shape tiny --max-seq-length 9999|lower --max-seq-length",
            "bench --compute-dtype float64|--compute-dtype: float32 and bfloat16",
            "bench ceilings --json no/such/folder/x.json|--json no/such/folder/x.json: expected a file",
            "bench decode --device gpu|--device gpu: expected cpu, cuda or cuda:N"})
    void wrongArgumentsAreNamed(String arguments, String said) {
        assertThat(run(arguments.split(" "))).as(err.toString()).isEqualTo(2);
        assertThat(err.toString()).contains("qlora: ", said).doesNotContain("\tat ");
    }

    @Test
    void timesARealModelAndWritesJson(@TempDir Path folder) throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), 7);
        Path json = folder.resolve("out.json");
        int code = run("bench", "train", "decode", "--model", model.toString(), "--seconds", "0.01", "--lora-r", "2",
                "--max-seq-length", "8", "--prefill", "8", "--prompt-length", "2", "--max-new-tokens", "3", "--threads",
                "2", "--json", json.toString());
        assertThat(code).as(err.toString()).isZero();
        assertThat(out.toString()).contains("check: losses", "model: " + model, "training step, 1 x 8 tokens, r = 2",
                "greedy decode, prompt 2, 3 new");
        assertThat(Files.readString(json)).contains("\"id\" : \"decode.adapter\"");
    }

    /** Without vectors the usual shapes would take hours. */
    @Test
    void theScalarBackendTimesATinyShape() {
        int code = run("bench", "kernels", "--backend", "scalar", "--seconds", "0.001");
        assertThat(code).as(err.toString()).isZero();
        assertThat(out.toString()).contains("shape tiny: on the scalar backend", "kernels: W [128, 64]");
    }
}
