package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@code qlora verify} on test vectors and on folders that are none. */
class VerifyVectorsTest {
    private static final Path VECTORS = Path.of("..", "verify", "vectors");

    @Test
    void aBackendIsJudgedByTestVectors() {
        Ran ran = Ran.run("verify", VECTORS.toString(), "--backend", "cpu");
        assertThat(ran.code()).as(ran.out() + ran.err()).isZero();
        assertThat(ran.out().lines().reduce((a, b) -> b).orElseThrow())
                .matches("agrees: \\d+ agree, 0 differ, 0 not handed in, 0 unknown");
        Ran json = Ran.run("verify", VECTORS.toString(), "--backend", "cpu", "--json");
        assertThat(json.code()).isZero();
        assertThat(json.out()).startsWith("{").contains("\"verdict\" : \"agrees\"", "\"missing\" : 0");
        Ran selfTest = Ran.run("verify", VECTORS.toString(), "--self-test");
        assertThat(selfTest.code()).isEqualTo(2);
        assertThat(selfTest.err()).contains("BUNDLE is a folder of test vectors");
    }

    /** The dump of another implementation, given without --against, is a folder that holds no bundle. */
    @Test
    void aFolderThatHoldsNothingKnownSaysWhatToDo(@TempDir Path folder) throws Exception {
        Files.copy(VECTORS.resolve("vectors.safetensors"), folder.resolve("dump.safetensors"));
        Ran ran = Ran.run("verify", folder.toString(), "--backend", "scalar");
        assertThat(ran.code()).isEqualTo(1);
        assertThat(ran.out()).startsWith("nothing to check: " + folder).contains("--against VECTORS")
                .endsWith("0 passed, 0 failed, 0 unsupported" + System.lineSeparator());
    }
}
