package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Loading and using a tokenizer in a JVM of its own, under {@link NetworkGuard} and without the build's settings. */
class NoNetworkTest {
    private static String guarded(List<String> options, String... arguments) throws IOException, InterruptedException {
        List<String> command =
                new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "--enable-native-access=ALL-UNNAMED", "-Dstdout.encoding=UTF-8",
                        "-Djava.nio.channels.spi.SelectorProvider=" + NetworkGuard.Channels.class.getName(),
                        "-Djava.nio.channels.spi.AsynchronousChannelProvider="
                                + NetworkGuard.AsynchronousChannels.class.getName()));
        command.addAll(options);
        String classPath = System.getProperty("surefire.test.class.path", System.getProperty("java.class.path"));
        command.addAll(List.of("-cp", classPath, NetworkGuard.class.getName()));
        command.addAll(List.of(arguments));
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().keySet().removeAll(List.of("OPT_OUT_TRACKING", "DJL_OFFLINE", "RUST_FLAVOR"));
        Process process = builder.start();
        process.getOutputStream().close();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        return output + "exit " + process.waitFor();
    }

    private static String tokenizer() {
        return Golden.path("tokenizers/byte_level").toString();
    }

    @Test
    void aTokenizerIsLoadedAndUsedWithoutTheNetwork() throws IOException, InterruptedException {
        String output = guarded(List.of(), "tokenizer", tokenizer());
        assertThat(output).contains("decoded Hello, world!").endsWith("exit 0").doesNotContain("attempt:");
    }

    @Test
    void theGuardSeesTheLibraryWhenItMay() throws IOException, InterruptedException {
        String output =
                guarded(List.of("-Dai.djl.offline=false", "-DOPT_OUT_TRACKING=false"), "tokenizer", tokenizer());
        // what the library asks for: where in a certain cloud it runs
        assertThat(output).contains("attempt:");
    }

    @Test
    void theGuardSeesEveryWayOut() throws IOException, InterruptedException {
        String output = guarded(List.of(), "probe");
        List<String> probes = output.lines().filter(line -> line.startsWith("probe ")).toList();
        assertThat(probes).hasSize(9).allSatisfy(line -> assertThat(line).endsWith(": refused"));
    }
}
