package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

class MainTest {

    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();
    private final CommandLine line = Main.commandLine().setOut(new PrintWriter(out)).setErr(new PrintWriter(err));

    @Test
    void helpNamesTheProgram() {
        assertThat(line.execute("--help")).isZero();
        assertThat(out.toString()).startsWith("Usage: qlora ");
        assertThat(err.toString()).isEmpty();
    }

    @Test
    void versionIsTheBuilds() {
        assertThat(line.execute("--version")).isZero();
        assertThat(out.toString()).matches("(?s)qlora4j \\d+\\.\\d+\\.\\d+(-SNAPSHOT)?\\RJava .*");
    }

    @Test
    void noCommandIsMisuse() {
        assertThat(line.execute()).isEqualTo(CommandLine.ExitCode.USAGE);
        assertThat(err.toString()).contains("a command is needed").contains("Usage: qlora ");
    }
}
