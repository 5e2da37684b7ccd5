package qlora4j.verify.fuzz;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/**
 * What Jazzer calls, started by {@code verify/fuzz}. The target is named by the system property {@value #TARGET}. As a
 * program of its own it writes the target's valid inputs into a directory, for Jazzer to begin with.
 */
public final class FuzzMain {
    static final String TARGET = "qlora4j.fuzz.target";
    private static FuzzTarget target;
    private static Path scratch;

    private FuzzMain() {
    }

    /** Called once by Jazzer. */
    public static void fuzzerInitialize() throws IOException {
        target = FuzzTarget.named(System.getProperty(TARGET));
        scratch = Files.createTempDirectory("fuzz-" + target);
    }

    /** Called by Jazzer with each input. */
    public static void fuzzerTestOneInput(byte[] input) {
        target.accepts(input, scratch);
    }

    /** {@code TARGET DIRECTORY}: writes the valid inputs. No argument: prints the targets' names. */
    public static void main(String[] args) throws IOException {
        if (args.length == 0) {
            FuzzTarget.all().forEach(System.out::println);
            return;
        }
        List<byte[]> seeds = FuzzTarget.named(args[0]).seeds();
        Path directory = Files.createDirectories(Path.of(args[1]));
        for (int i = 0; i < seeds.size(); i++) {
            Files.write(directory.resolve("seed-" + i), seeds.get(i));
        }
    }
}
