package qlora4j.verify.fuzz;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * The everyday share of fuzzing: each target takes its valid inputs, the inputs that once broke it
 * ({@code src/test/resources/fuzz}), and damaged ones, as many as fit into a second. {@code verify/fuzz} looks for more
 * with a fuzzer that follows the code's branches. A finding is kept in {@code target/fuzz}, whose path is in the message.
 */
class FuzzTest {
    private static final Path REGRESSIONS = Path.of("src", "test", "resources", "fuzz");
    private static final Path FINDINGS = Path.of("target", "fuzz");
    /** All regressions together. */
    private static final long MOST_BYTES = 200_000;
    /** What readers of numbers, texts and structure stumble over. */
    private static final List<String> VALUES = List.of("null", "true", "-1", "0", "2147483648", "9223372036854775808",
            "1e999", "-0.0", "NaN", "0.5", "\"\"", "\"\\ud800\"", "\"nf4\"", "[]", "{}", "[null]", "{\"\":[]}",
            "[[[[]]]]", "\"(a*)*b\"", "\"../x\"", "4294967296", "{{", "}}", "{%", "%}", "|", "loop", "self");

    private static Path scratch;

    @BeforeAll
    static void open() throws IOException {
        scratch = Files.createTempDirectory("fuzz");
    }

    @AfterAll
    static void delete() throws IOException {
        try (Stream<Path> files = Files.walk(scratch)) {
            for (Path p : files.sorted((a, b) -> b.compareTo(a)).toList()) {
                Files.delete(p);
            }
        }
    }

    static List<FuzzTarget> targets() {
        return FuzzTarget.all();
    }

    private static Path scratch(FuzzTarget target) throws IOException {
        return Files.createDirectories(scratch.resolve(target.toString()));
    }

    @ParameterizedTest
    @MethodSource("targets")
    void validInputsAreRead(FuzzTarget target) throws IOException {
        for (byte[] seed : target.seeds()) {
            target.read(seed, scratch(target));
        }
    }

    @ParameterizedTest
    @MethodSource("targets")
    void whatOnceBrokeIsRefused(FuzzTarget target) throws IOException {
        Path directory = REGRESSIONS.resolve(target.toString());
        if (!Files.isDirectory(directory)) {
            assertThat(target.toString()).as("a target without a regression").isIn("index", "quant-state",
                    "safetensors",
                    "template");
            return;
        }
        long bytes = 0;
        try (Stream<Path> files = Files.list(directory)) {
            for (Path file : files.sorted().toList()) {
                target.accepts(Files.readAllBytes(file), scratch(target));
                bytes += Files.size(file);
            }
        }
        assertThat(bytes).isBetween(1L, MOST_BYTES);
    }

    @ParameterizedTest
    @MethodSource("targets")
    void damagedInputsAreReadOrRefusedByName(FuzzTarget target) throws IOException {
        long seed = target.isNative() ? 1 : new SplittableRandom().nextLong();
        SplittableRandom random = new SplittableRandom(seed);
        List<byte[]> seeds = target.seeds();
        int read = 0;
        for (int i = 0; i < target.tries(); i++) {
            byte[] input = damage(seeds.get(random.nextInt(seeds.size())), random);
            try {
                read += target.accepts(input, scratch(target)) ? 1 : 0;
            } catch (AssertionError | OutOfMemoryError | StackOverflowError e) {
                Path kept = Files.write(Files.createDirectories(FINDINGS).resolve(target + "-" + Long.toHexString(seed)
                        + "-" + i), input).toAbsolutePath();
                throw new AssertionError("seed " + seed + ", input " + i + ", kept as " + kept + ": " + e.getMessage(),
                        e);
            }
        }
        // Damage that always is refused at the first byte would test nothing behind it, as would damage that never is.
        assertThat(read).as("inputs read, seed %d", seed).isBetween(1, target.tries() - 1);
    }

    /** One to three changes: a bit, a byte, a value, a piece removed, doubled, moved. */
    private static byte[] damage(byte[] seed, SplittableRandom random) {
        byte[] bytes = seed;
        for (int n = 1 + random.nextInt(3); n > 0; n--) {
            int from = random.nextInt(bytes.length + 1);
            int to = Math.min(bytes.length, from + 1 + random.nextInt(random.nextBoolean() ? 4 : 64));
            bytes = switch (random.nextInt(7)) {
                case 0 -> splice(bytes, from, from, Arrays.copyOfRange(bytes, from, to));
                case 1 -> splice(bytes, from, to, new byte[0]);
                case 2 -> splice(bytes, from, Math.min(bytes.length, from + 1), new byte[]{(byte) random.nextInt(256)});
                case 3 -> splice(bytes, from, from, new byte[]{(byte) " \"{}[],:0\n\\".charAt(random.nextInt(11))});
                case 4 -> {
                    int at = random.nextInt(bytes.length + 1);
                    yield splice(bytes, at, at, Arrays.copyOfRange(bytes, from, to));
                }
                default -> {
                    byte[] value = VALUES.get(random.nextInt(VALUES.size())).getBytes(StandardCharsets.UTF_8);
                    int[] span = value(bytes, from);
                    yield splice(bytes, span[0], span[1], value);
                }
            };
        }
        return bytes;
    }

    /** The JSON value, or the word, that begins behind {@code from}; a number of a binary header is 8 bytes. */
    private static int[] value(byte[] bytes, int from) {
        int start = from;
        while (start < bytes.length && bytes[start] != ':' && bytes[start] != '[' && bytes[start] != '{') {
            start++;
        }
        start = Math.min(bytes.length, start + 1);
        while (start < bytes.length && bytes[start] == ' ') {
            start++;
        }
        int end = start;
        while (end < bytes.length && ",]}\n|".indexOf(bytes[end]) < 0) {
            end++;
        }
        return new int[]{start, end};
    }

    private static byte[] splice(byte[] bytes, int from, int to, byte[] piece) {
        byte[] out = Arrays.copyOf(bytes, bytes.length - (to - from) + piece.length);
        System.arraycopy(piece, 0, out, from, piece.length);
        System.arraycopy(bytes, to, out, from + piece.length, bytes.length - to);
        return out;
    }
}
