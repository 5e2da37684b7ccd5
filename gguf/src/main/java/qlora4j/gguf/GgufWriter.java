package qlora4j.gguf;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import qlora4j.safetensors.AtomicFile;

/**
 * Writes a GGUF file of version 3: declare metadata and tensors, then {@link #write}. Tensors follow in the order of
 * their declaration, each at a multiple of the alignment, without gaps but for that, as llama.cpp demands. Their bytes
 * are asked for only when their turn comes. The file appears by an atomic rename, complete, or not at all.
 */
public final class GgufWriter {
    /** The longest name of a tensor that llama.cpp reads ({@code GGML_MAX_NAME} with its end). */
    private static final int MAX_TENSOR_NAME = 63;

    /** Takes a tensor's bytes, in order, in as many pieces as suit. */
    public interface Sink {
        /** Writes all bytes of {@code piece}. */
        void write(MemorySegment piece) throws IOException;
    }

    /** Makes a tensor's bytes when its turn to be written has come. */
    public interface Source {
        /** Writes exactly the declared number of bytes to {@code sink}. */
        void writeTo(Sink sink) throws IOException;
    }

    private record Declared(String name, GgmlType type, long[] shape, long bytes, Source source) {
    }

    private final Map<String, Consumer<Out>> metadata = new LinkedHashMap<>();
    private final List<Declared> tensors = new ArrayList<>();

    /** Little-endian bytes in memory. */
    private static final class Out {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        void int32(int value) {
            bytes.writeBytes(ByteBuffer.allocate(Integer.BYTES).order(ByteOrder.LITTLE_ENDIAN).putInt(value).array());
        }

        void int64(long value) {
            bytes.writeBytes(ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN).putLong(value).array());
        }

        void text(String value) {
            byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
            int64(utf8.length);
            bytes.writeBytes(utf8);
        }

        void type(GgufValueType type) {
            int32(type.ordinal());
        }

        void array(GgufValueType type, int length) {
            type(GgufValueType.ARRAY);
            type(type);
            int64(length);
        }
    }

    private GgufWriter add(String key, Consumer<Out> value) {
        if (key.isEmpty() || key.length() > GgufParser.MAX_KEY) {
            throw new IllegalArgumentException("a metadata key of " + key.length() + " characters");
        }
        if (key.equals(GgufParser.ALIGNMENT)) {
            throw new IllegalArgumentException(key + ": the alignment is always " + GgufParser.DEFAULT_ALIGNMENT);
        }
        if (metadata.putIfAbsent(key, value) != null) {
            throw new IllegalArgumentException("metadata " + key + " was declared twice");
        }
        return this;
    }

    /** Adds a text. */
    public GgufWriter text(String key, String value) {
        return add(key, out -> {
            out.type(GgufValueType.STRING);
            out.text(value);
        });
    }

    /** Adds an unsigned 32-bit number. */
    public GgufWriter uint32(String key, int value) {
        return add(key, out -> {
            out.type(GgufValueType.UINT32);
            out.int32(value);
        });
    }

    /** Adds a float32. */
    public GgufWriter float32(String key, double value) {
        return add(key, out -> {
            out.type(GgufValueType.FLOAT32);
            out.int32(Float.floatToRawIntBits((float) value));
        });
    }

    /** Adds a boolean. */
    public GgufWriter flag(String key, boolean value) {
        return add(key, out -> {
            out.type(GgufValueType.BOOL);
            out.bytes.write(value ? 1 : 0);
        });
    }

    /** Adds an array of texts. */
    public GgufWriter texts(String key, List<String> values) {
        return add(key, out -> {
            out.array(GgufValueType.STRING, values.size());
            values.forEach(out::text);
        });
    }

    /** Adds an array of signed 32-bit numbers. */
    public GgufWriter int32s(String key, int[] values) {
        return add(key, out -> {
            out.array(GgufValueType.INT32, values.length);
            for (int value : values) {
                out.int32(value);
            }
        });
    }

    /** Adds an array of float32. */
    public GgufWriter float32s(String key, float[] values) {
        return add(key, out -> {
            out.array(GgufValueType.FLOAT32, values.length);
            for (float value : values) {
                out.int32(Float.floatToRawIntBits(value));
            }
        });
    }

    /**
     * Declares a tensor.
     *
     * @param shape its dimensions, slowest first
     * @param source makes its bytes when the file is written
     */
    public GgufWriter tensor(String name, GgmlType type, long[] shape, Source source) {
        if (name.isEmpty() || name.getBytes(StandardCharsets.UTF_8).length > MAX_TENSOR_NAME) {
            throw new IllegalArgumentException("tensor name " + GgufException.quote(name) + ": 1 to " + MAX_TENSOR_NAME
                    + " bytes are expected");
        }
        if (tensors.stream().anyMatch(t -> t.name.equals(name))) {
            throw new IllegalArgumentException("tensor " + name + " was declared twice");
        }
        long elements = 1;
        for (long d : shape) {
            if (d < 0) {
                throw new IllegalArgumentException("tensor " + name + " has the negative dimension " + d);
            }
            elements = Math.multiplyExact(elements, d);
        }
        long row = shape.length == 0 ? 1 : shape[shape.length - 1];
        if (shape.length > GgufParser.MAX_DIMENSIONS || row % type.blockElements() != 0) {
            throw new IllegalArgumentException("tensor " + name + " has " + shape.length + " dimensions and rows of "
                    + row + " elements; " + type + " needs at most " + GgufParser.MAX_DIMENSIONS
                    + " and multiples of " + type.blockElements());
        }
        tensors.add(new Declared(name, type, shape.clone(), type.bytes(elements), source));
        return this;
    }

    /**
     * Writes the file, replacing one that is there. Its directory must exist.
     *
     * @throws IOException if it cannot be written, or a source gave fewer or more bytes than declared; an old file is
     *     then untouched
     */
    public void write(Path file) throws IOException {
        byte[] header = header();
        AtomicFile.write(file, out -> {
            out.write(MemorySegment.ofArray(header));
            pad(out);
            for (Declared t : tensors) {
                long end = out.position() + t.bytes;
                t.source.writeTo(piece -> {
                    if (piece.byteSize() > end - out.position()) {
                        throw new IOException(file + ": tensor " + t.name + " has more than its " + t.bytes + " bytes");
                    }
                    out.write(piece);
                });
                if (out.position() != end) {
                    throw new IOException(file + ": tensor " + t.name + " has " + (end - out.position())
                            + " bytes fewer than its " + t.bytes);
                }
                pad(out);
            }
        });
    }

    private static void pad(AtomicFile out) throws IOException {
        out.write(MemorySegment.ofArray(new byte[(int) (aligned(out.position()) - out.position())]));
    }

    private static long aligned(long position) {
        return Math.ceilDiv(position, GgufParser.DEFAULT_ALIGNMENT) * GgufParser.DEFAULT_ALIGNMENT;
    }

    private byte[] header() {
        Out out = new Out();
        out.int32(GgufParser.MAGIC);
        out.int32(GgufParser.VERSION);
        out.int64(tensors.size());
        out.int64(metadata.size());
        metadata.forEach((key, value) -> {
            out.text(key);
            value.accept(out);
        });
        long offset = 0;
        for (Declared t : tensors) {
            out.text(t.name);
            out.int32(t.shape.length);
            for (int i = t.shape.length - 1; i >= 0; i--) {
                out.int64(t.shape[i]);
            }
            out.int32(t.type.code());
            out.int64(offset);
            offset = aligned(offset + t.bytes);
        }
        return out.bytes.toByteArray();
    }
}
