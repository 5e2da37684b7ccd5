package qlora4j.verify.fuzz;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.stream.Stream;
import qlora4j.template.TemplateException;
import qlora4j.train.TrainingException;

/**
 * A reader of files from outside, as one function of bytes. An input is good when it is read, or when it is refused with
 * an exception that is the project's own and names the file; anything else that is thrown is a finding, and so are an
 * OutOfMemoryError on the heap of the run and a time out.
 *
 * <p>An input for a reader of several files is these files one after another, with {@link #SEPARATOR} between them:
 * JSON cannot hold that byte, and what follows the last one may hold anything.
 */
abstract class FuzzTarget {
    /** ASCII's record separator. */
    static final byte SEPARATOR = 0x1e;

    /** What readers warn of is beside the point, and there is much of it. Kept, since loggers are forgotten else. */
    private static final Logger LOGGER = Logger.getLogger("qlora4j");

    static {
        LOGGER.setLevel(Level.OFF);
    }

    private final String name;

    FuzzTarget(String name) {
        this.name = name;
    }

    /** All targets. */
    static List<FuzzTarget> all() {
        return Stream.of(TensorTargets.all(), ModelTargets.all(), List.of(new GgufTarget(), new TemplateTarget()))
                .flatMap(List::stream).toList();
    }

    static FuzzTarget named(String name) {
        return all().stream().filter(t -> t.name.equals(name)).findFirst()
                .orElseThrow(() -> new IllegalArgumentException(
                        "there is no target " + name + "; there are "
                                + all().stream().map(FuzzTarget::toString).toList()));
    }

    /** Valid inputs to begin with. */
    abstract List<byte[]> seeds() throws IOException;

    /**
     * Reads an input and everything that can be asked of it.
     *
     * @param scratch a directory of this target; what an earlier input left there may lie in it
     */
    abstract void read(byte[] input, Path scratch) throws IOException;

    /** How often the everyday build damages a seed: a share of a second's work. */
    int tries() {
        return 1500;
    }

    /**
     * Whether a finding may end the process, which no test can report: then the everyday build repeats the same damage,
     * and new damage is left to {@code verify/fuzz}.
     */
    boolean isNative() {
        return false;
    }

    /**
     * One input.
     *
     * @return whether it was read; false where it was refused in a good way
     * @throws AssertionError if it is a finding
     */
    final boolean accepts(byte[] input, Path scratch) {
        try {
            read(input, scratch);
            return true;
        } catch (OutOfMemoryError | StackOverflowError e) {
            throw e;
        } catch (Throwable t) {
            if (isNamed(t, scratch)) {
                return false;
            }
            throw new AssertionError(name + ": neither read nor refused with an exception that names the file: " + t,
                    t);
        }
    }

    /** Whether an exception tells a user which file is wrong. A template's errors tell its line: it has no file. */
    private static boolean isNamed(Throwable t, Path scratch) {
        boolean own = t instanceof IOException || t instanceof TrainingException || t instanceof IllegalStateException
                || t instanceof IllegalArgumentException;
        return t instanceof TemplateException
                || own && t.getMessage() != null && t.getMessage().contains(scratch.toString());
    }

    /** The {@code n} files of an input; those that are not there are empty. */
    static byte[][] split(byte[] input, int n) {
        byte[][] parts = new byte[n][];
        int from = 0;
        for (int i = 0; i < n; i++) {
            int to = from;
            while (to < input.length && (i == n - 1 || input[to] != SEPARATOR)) {
                to++;
            }
            parts[i] = Arrays.copyOfRange(input, Math.min(from, input.length), to);
            from = Math.min(to + 1, input.length);
        }
        return parts;
    }

    /** An input of several files. */
    static byte[] join(byte[]... parts) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (int i = 0; i < parts.length; i++) {
            if (i > 0) {
                out.write(SEPARATOR);
            }
            out.writeBytes(parts[i]);
        }
        return out.toByteArray();
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Writes a file, or deletes it where there is nothing to write: a file that is left out is another case. */
    static void put(Path file, byte[] bytes) throws IOException {
        if (bytes.length == 0) {
            Files.deleteIfExists(file);
        } else {
            Files.write(file, bytes);
        }
    }

    @Override
    public String toString() {
        return name;
    }
}
