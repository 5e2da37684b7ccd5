package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.safetensors.SafetensorsException.Kind;

/**
 * The attacks that the safetensors project publishes (its {@code attacks/} folder), each against a JVM of its own whose
 * heap is a small multiple of the file: one that kept the tensors' bytes, or compared each tensor with each, would not
 * come back.
 */
class AttacksTest {
    /** Far more than the seconds it takes: a reader that is quadratic in a million tensors takes hours. */
    private static final int SECONDS = 120;

    @TempDir
    private Path directory;

    /** The victim: opens its argument and says how that ended. */
    static final class Victim {
        private Victim() {
        }

        public static void main(String[] args) throws IOException {
            try (Safetensors s = Safetensors.open(Path.of(args[0]))) {
                System.out.println("opened " + s.names().size());
            } catch (SafetensorsException e) {
                System.out.println(e.kind());
            }
        }
    }

    private static String open(Path file, int megabytes) throws IOException, InterruptedException {
        Path out = file.resolveSibling("out");
        Process victim = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Xmx" + megabytes + "m", "-XX:+UseSerialGC", "-cp", System.getProperty("java.class.path"),
                Victim.class.getName(), file.toString()).redirectErrorStream(true).redirectOutput(out.toFile()).start();
        try {
            assertThat(victim.waitFor(SECONDS, TimeUnit.SECONDS)).as("still reading after %d s", SECONDS).isTrue();
        } finally {
            victim.destroyForcibly();
        }
        return Files.readString(out).lines().reduce((_, last) -> last).orElse("");
    }

    private Path overlapping(int tensors, int bytes) throws IOException {
        StringBuilder header = new StringBuilder("{");
        for (int i = 0; i < tensors; i++) {
            header.append(i == 0 ? "\"" : ",\"").append(i).append("\":{\"dtype\":\"U8\",\"shape\":[").append(bytes)
                    .append("],\"data_offsets\":[0,").append(bytes).append("]}");
        }
        Path file = directory.resolve("overlapping.safetensors");
        try (OutputStream out = new BufferedOutputStream(Files.newOutputStream(file));
                PrintStream text = new PrintStream(out, false, StandardCharsets.UTF_8)) {
            text.write(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(header.length() + 1).array());
            text.append(header.append('}'));
            text.write(new byte[bytes]);
        }
        return file;
    }

    @Test
    void aMillionTensorsOnOneByte() throws IOException, InterruptedException {
        assertThat(open(overlapping(1_000_000, 1), 640)).isEqualTo(Kind.OFFSETS_OVERLAP.name());
    }

    @Test
    void aHundredThousandTensorsOnTheSame160Kilobytes() throws IOException, InterruptedException {
        assertThat(open(overlapping(100_000, 160 << 10), 96)).isEqualTo(Kind.OFFSETS_OVERLAP.name());
    }

    @Test
    void aHeaderOfAThousandBytesInASmallFile() throws IOException, InterruptedException {
        byte[] header =
                "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}".getBytes(StandardCharsets.UTF_8);
        Path file = directory.resolve("small.safetensors");
        Files.write(file, ByteBuffer.allocate(8 + header.length + 1).order(ByteOrder.LITTLE_ENDIAN).putLong(1000)
                .put(header).array());
        assertThat(open(file, 16)).isEqualTo(Kind.HEADER_PAST_END.name());
    }

    @Test
    void theLargestHeaderOfSpaces() throws IOException, InterruptedException {
        byte[] bytes = new byte[8 + (int) Header.MAX_BYTES];
        Arrays.fill(bytes, (byte) ' ');
        ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putLong(Header.MAX_BYTES);
        assertThat(open(Files.write(directory.resolve("spaces.safetensors"), bytes), 256))
                .isEqualTo(Kind.HEADER_NOT_JSON.name());
    }
}
