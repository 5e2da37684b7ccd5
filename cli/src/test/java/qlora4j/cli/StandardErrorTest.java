package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Starts Java as the launcher does: descriptor 2 elsewhere, the real standard error on 9. */
class StandardErrorTest {

    /** What the started JVM runs. */
    static final class Child {
        public static void main(String[] args) {
            System.err.println("before");
            StandardError.restore();
            System.err.println("after");
        }
    }

    @TempDir
    private Path folder;

    @Test
    void fromRestoreOnErrorsGoToTheRealStandardError() throws Exception {
        assertThat(child("-D" + StandardError.PROPERTY + "=9")).isEqualTo("after\n");
        assertThat(Files.readString(folder.resolve("two"))).isEqualTo("before\n");
    }

    @Test
    void withoutTheLauncherNothingChanges() throws Exception {
        assertThat(child("-Dx=y")).isEmpty();
        assertThat(Files.readString(folder.resolve("two"))).isEqualTo("before\nafter\n");
    }

    @Test
    void aDescriptorThatIsNotOpenIsAnError() throws Exception {
        assertThat(child("-D" + StandardError.PROPERTY + "=93")).isEmpty();
        assertThat(Files.readString(folder.resolve("two")))
                .contains("-D" + StandardError.PROPERTY + "=93 is not an open file descriptor");
    }

    /** What the JVM's real standard error got. */
    private String child(String property) throws IOException, InterruptedException {
        Process process = new ProcessBuilder("bash", "-c", "exec 9>&2; exec \"$@\" 2>two", "bash",
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED", property, "-cp", System.getProperty("java.class.path"),
                Child.class.getName()).directory(folder.toFile()).redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start();
        String text = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
        process.waitFor();
        return text;
    }
}
