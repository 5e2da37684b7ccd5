package qlora4j.train.report;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Bytes of event files. TensorBoard's own reader takes the same file; its writer makes the first record so. */
class EventFileTest {
    @TempDir
    private Path folder;

    @Test
    void aFileIsTheVersionAndARecordAStep() throws IOException {
        try (EventFile file = new EventFile(folder.resolve("run"), 1.5, "name")) {
            file.scalars(2.5, 300, Map.of("train/loss", 0.25f));
        }
        byte[] bytes = Files.readAllBytes(folder.resolve("run/events.out.tfevents.0000000001.name"));
        String version =
                "09" + "000000000000f83f" + "1000" + "1a0d" + HexFormat.of().formatHex("brain.Event:2".getBytes());
        String scalar = "09" + "0000000000000440" + "10ac02" + "2a13" + "0a11" + "0a0a"
                + HexFormat.of().formatHex("train/loss".getBytes()) + "15" + "0000803e";
        assertThat(HexFormat.of().formatHex(bytes)).isEqualTo(record(version) + record(scalar));
    }

    /** A record around data: both checksums by their definition, a bit at a time. */
    private static String record(String data) {
        byte[] d = HexFormat.of().parseHex(data);
        byte[] length = {(byte) d.length, 0, 0, 0, 0, 0, 0, 0};
        return HexFormat.of().formatHex(length) + masked(length) + data + masked(d);
    }

    private static String masked(byte[] of) {
        int crc = ~0;
        for (byte b : of) {
            crc ^= b & 0xff;
            for (int i = 0; i < 8; i++) {
                crc = crc >>> 1 ^ (0x82f63b78 & -(crc & 1));
            }
        }
        crc = ~crc;
        int masked = (crc >>> 15 | crc << 17) + 0xa282ead8;
        return HexFormat.of().toHexDigits(Integer.reverseBytes(masked));
    }
}
