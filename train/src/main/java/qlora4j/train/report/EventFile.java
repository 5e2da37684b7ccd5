package qlora4j.train.report;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.zip.CRC32C;

/**
 * An event file as TensorBoard reads it: TFRecords (length, masked CRC-32C of the length, data, masked CRC-32C of the
 * data; all little-endian) of {@code Event} messages, here scalars only. Format: {@code tensorflow/core/util/event.proto}
 * and {@code record_writer.cc}.
 */
public final class EventFile implements AutoCloseable {
    private static final String PREFIX = "events.out.tfevents.";
    private static final int MASK = 0xa282ead8;
    private static final int VARINT = 0;
    private static final int FIXED64 = 1;
    private static final int BYTES = 2;
    private static final int FIXED32 = 5;
    private final OutputStream out;

    /**
     * Begins a file {@code events.out.tfevents.SECONDS.NAME} in a directory, which is made.
     *
     * @param seconds now, since 1970
     */
    public EventFile(Path directory, double seconds, String name) throws IOException {
        Files.createDirectories(directory);
        out = Files.newOutputStream(
                directory.resolve(PREFIX + String.format("%010d", (long) seconds) + "." + name));
        record(event(seconds, 0, 3, "brain.Event:2".getBytes(StandardCharsets.UTF_8)));
    }

    /** Whether event files are called so. */
    public static boolean isName(String file) {
        return file.startsWith(PREFIX);
    }

    /** Appends the values of a step, by tag, and hands them to the system, so that a reader sees them at once. */
    public void scalars(double seconds, long step, Map<String, ? extends Number> values) throws IOException {
        ByteArrayOutputStream summary = new ByteArrayOutputStream();
        for (Map.Entry<String, ? extends Number> e : values.entrySet()) {
            ByteArrayOutputStream value = new ByteArrayOutputStream();
            bytes(value, 1, e.getKey().getBytes(StandardCharsets.UTF_8));
            value.write(2 << 3 | FIXED32);
            value.writeBytes(little(4).putFloat(e.getValue().floatValue()).array());
            bytes(summary, 1, value.toByteArray());
        }
        record(event(seconds, step, 5, summary.toByteArray()));
        out.flush();
    }

    /** Event: double wall_time = 1, int64 step = 2, and what it is about. */
    private static byte[] event(double seconds, long step, int field, byte[] content) {
        ByteArrayOutputStream event = new ByteArrayOutputStream();
        event.write(1 << 3 | FIXED64);
        event.writeBytes(little(8).putDouble(seconds).array());
        event.write(2 << 3 | VARINT);
        varint(event, step);
        bytes(event, field, content);
        return event.toByteArray();
    }

    private static void bytes(ByteArrayOutputStream to, int field, byte[] content) {
        to.write(field << 3 | BYTES);
        varint(to, content.length);
        to.writeBytes(content);
    }

    private static void varint(ByteArrayOutputStream to, long value) {
        long rest = value;
        for (; rest >>> 7 != 0; rest >>>= 7) {
            to.write((int) (rest & 0x7f) | 0x80);
        }
        to.write((int) rest);
    }

    private void record(byte[] data) throws IOException {
        byte[] length = little(8).putLong(data.length).array();
        DataOutputStream whole = new DataOutputStream(out);
        whole.write(length);
        whole.write(little(4).putInt(masked(length)).array());
        whole.write(data);
        whole.write(little(4).putInt(masked(data)).array());
    }

    /** CRC-32C, turned and shifted so that a checksum of checksums is not a fixed point. */
    private static int masked(byte[] of) {
        CRC32C crc = new CRC32C();
        crc.update(of);
        return Integer.rotateRight((int) crc.getValue(), 15) + MASK;
    }

    private static ByteBuffer little(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }

    @Override
    public void close() throws IOException {
        out.close();
    }
}
