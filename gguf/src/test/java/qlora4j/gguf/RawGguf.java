package qlora4j.gguf;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Bytes of a GGUF file, well-formed or not, written one after another. */
final class RawGguf {
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

    /** Begins with the magic number, the version and the two counts. */
    static RawGguf of(int version, long tensors, long entries) {
        return new RawGguf().int32(GgufParser.MAGIC).int32(version).int64(tensors).int64(entries);
    }

    RawGguf int8(int value) {
        bytes.write(value);
        return this;
    }

    RawGguf int32(int value) {
        bytes.writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(value).array());
        return this;
    }

    RawGguf int64(long value) {
        bytes.writeBytes(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(value).array());
        return this;
    }

    RawGguf raw(byte... more) {
        bytes.writeBytes(more);
        return this;
    }

    RawGguf text(String value) {
        byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
        return int64(utf8.length).raw(utf8);
    }

    RawGguf key(String key, GgufValueType type) {
        return text(key).int32(type.ordinal());
    }

    /** A tensor's entry; dimensions fastest first, as in a file. */
    RawGguf tensor(String name, int type, long offset, long... dimensions) {
        text(name).int32(dimensions.length);
        for (long d : dimensions) {
            int64(d);
        }
        return int32(type).int64(offset);
    }

    /** Zeros up to the alignment, then {@code n} more. */
    RawGguf data(int n) {
        bytes.writeBytes(new byte[Math.ceilDiv(bytes.size(), 32) * 32 - bytes.size() + n]);
        return this;
    }

    byte[] bytes() {
        return bytes.toByteArray();
    }

    Path write(Path file) throws IOException {
        return Files.write(file, bytes());
    }
}
