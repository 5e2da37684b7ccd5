package qlora4j.safetensors;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.Tensor;

/**
 * Writes a safetensors file: declare the tensors, then {@link #write}. The same declarations give the same bytes.
 *
 * <p>Tensors are ordered as the reference implementation orders them, by dtype from the widest to the narrowest, then
 * by the UTF-8 bytes of their names, and the header is padded with spaces to a multiple of 8 bytes: every tensor then
 * starts at a multiple of its element's size. Data may be given as memory, or as a callback that is asked for it only
 * when its turn comes, so that a model larger than the memory can be written tensor by tensor.
 *
 * <p>The file appears under its name by an atomic rename, complete and synchronised to disk, or not at all.
 */
public final class SafetensorsWriter {
    /** The header is padded to a multiple of this many bytes unless {@link #alignment} says otherwise. */
    public static final int DEFAULT_ALIGNMENT = 8;

    /** From the narrowest to the widest, in the order of the reference implementation's type list (0.8.0). */
    private static final List<DType> BY_ALIGNMENT = List.of(DType.BOOL, DType.F4, DType.F6_E2M3, DType.F6_E3M2,
            DType.U8, DType.I8, DType.F8_E5M2, DType.F8_E4M3, DType.F8_E8M0, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ,
            DType.I16, DType.U16, DType.F16, DType.BF16, DType.I32, DType.U32, DType.F32, DType.C64, DType.F64,
            DType.I64, DType.U64);

    /** Takes a tensor's bytes, in order, in as many pieces as suit. */
    public interface Sink {
        /** Writes all bytes of {@code piece}. */
        void write(MemorySegment piece) throws IOException;
    }

    /** Makes a tensor's bytes when its turn to be written has come. */
    public interface Source {
        /** Writes exactly the declared number of bytes, little-endian and row-major, to {@code sink}. */
        void writeTo(Sink sink) throws IOException;
    }

    /** One declared tensor. */
    record Declared(String name, DType dtype, long[] shape, long bytes, Source source) {
    }

    private final List<Declared> tensors = new ArrayList<>();
    private final Set<String> names = new HashSet<>();
    private final Map<String, String> metadata = new TreeMap<>();
    private boolean insertionOrder;
    private int alignment = DEFAULT_ALIGNMENT;

    /** Adds an entry of {@code __metadata__}; they are written in the order of their keys. */
    public SafetensorsWriter metadata(String key, String value) {
        metadata.put(unicode(key, "metadata key"), unicode(value, "metadata value"));
        return this;
    }

    /** Adds entries of {@code __metadata__}. */
    public SafetensorsWriter metadata(Map<String, String> entries) {
        entries.forEach(this::metadata);
        return this;
    }

    /** Keeps the tensors in the order of their declaration. Their starts may then be less aligned. */
    public SafetensorsWriter keepInsertionOrder() {
        insertionOrder = true;
        return this;
    }

    /**
     * Lets the data start at a multiple of {@code bytes} of the file: 8 or more, a power of two. The format allows no
     * padding between tensors.
     */
    public SafetensorsWriter alignment(int bytes) {
        if (bytes < DEFAULT_ALIGNMENT || Integer.bitCount(bytes) != 1) {
            throw new IllegalArgumentException("alignment " + bytes + " is not a power of two from 8 on");
        }
        alignment = bytes;
        return this;
    }

    /** Declares a host tensor; its memory is read when the file is written. */
    public SafetensorsWriter add(String name, Tensor tensor) {
        if (!tensor.device().equals(Device.CPU)) {
            throw new IllegalArgumentException("tensor " + SafetensorsException.quote(name) + " is " + tensor
                    + ": copy it to the host before it is written");
        }
        return add(name, tensor.dtype(), tensor.data(), tensor.shape());
    }

    /** Declares a tensor of exactly the bytes of {@code data}, which is read when the file is written. */
    public SafetensorsWriter add(String name, DType dtype, MemorySegment data, long... shape) {
        add(name, dtype, sink -> sink.write(data), shape);
        long bytes = tensors.getLast().bytes;
        if (data.byteSize() != bytes) {
            names.remove(tensors.removeLast().name);
            throw new IllegalArgumentException("tensor " + SafetensorsException.quote(name) + ": " + dtype
                    + Arrays.toString(shape) + " needs " + bytes + " bytes, the memory has " + data.byteSize());
        }
        return this;
    }

    /** Declares a tensor whose bytes {@code source} makes when the file is written. */
    public SafetensorsWriter add(String name, DType dtype, Source source, long... shape) {
        unicode(name, "tensor name");
        Objects.requireNonNull(source);
        String shown = SafetensorsException.quote(name);
        if (name.equals(Header.METADATA)) {
            throw new IllegalArgumentException("no tensor can be named " + name + ": the format reserves it");
        }
        for (long d : shape) {
            if (d < 0) {
                throw new IllegalArgumentException("tensor " + shown + ": negative dimension in "
                        + Arrays.toString(shape));
            }
        }
        long bytes;
        try {
            bytes = Header.bytes(dtype, shape);
        } catch (ArithmeticException | IllegalArgumentException e) {
            throw new IllegalArgumentException("tensor " + shown + ": " + dtype + Arrays.toString(shape) + ": "
                    + e.getMessage(), e);
        }
        if (!names.add(name)) {
            throw new IllegalArgumentException("tensor " + shown + " was declared twice");
        }
        tensors.add(new Declared(name, dtype, shape.clone(), bytes, source));
        return this;
    }

    private static String unicode(String text, String what) {
        if (!Json.isUnicode(text)) {
            throw new IllegalArgumentException(what + " " + SafetensorsException.quote(text)
                    + " holds half a surrogate pair");
        }
        return text;
    }

    /** The size in bytes of the file that {@link #write} would write now. */
    public long fileBytes() {
        long bytes = Header.LENGTH_BYTES + (long) header(order()).length;
        for (Declared t : tensors) {
            bytes = Math.addExact(bytes, t.bytes);
        }
        return bytes;
    }

    /**
     * Writes the file, replacing one that is there. Its directory must exist. A process that is killed meanwhile leaves
     * the old file, or none, and at worst a hidden temporary file beside it.
     *
     * @throws IOException if it cannot be written, or a source gave fewer or more bytes than declared; the old file is
     *     then untouched
     */
    public void write(Path file) throws IOException {
        List<Declared> order = order();
        byte[] header = header(order);
        AtomicFile.write(file, out -> {
            out.writeLong(header.length);
            out.write(MemorySegment.ofArray(header));
            for (Declared t : order) {
                long end = out.position() + t.bytes;
                t.source.writeTo(piece -> {
                    if (piece.byteSize() > end - out.position()) {
                        throw mismatch(file, t, "more");
                    }
                    out.write(piece);
                });
                if (out.position() != end) {
                    throw mismatch(file, t, "only " + (t.bytes - (end - out.position())));
                }
            }
        });
    }

    private static IOException mismatch(Path file, Declared t, String given) {
        return new IOException(file + ": tensor " + SafetensorsException.quote(t.name) + " was declared as " + t.dtype
                + Arrays.toString(t.shape) + ", " + t.bytes + " bytes, but its source gave " + given);
    }

    private List<Declared> order() {
        List<Declared> order = new ArrayList<>(tensors);
        if (!insertionOrder) {
            order.sort(Comparator.comparingInt((Declared t) -> -BY_ALIGNMENT.indexOf(t.dtype))
                    .thenComparing(Declared::name, SafetensorsWriter::compareCodePoints));
        }
        return order;
    }

    /** The order of UTF-8 bytes, which is that of code points (and not that of Java's chars). */
    private static int compareCodePoints(String a, String b) {
        return Arrays.compare(a.codePoints().toArray(), b.codePoints().toArray());
    }

    private byte[] header(List<Declared> order) {
        StringBuilder json = new StringBuilder("{");
        if (!metadata.isEmpty()) {
            key(json, Header.METADATA).append('{');
            metadata.forEach((k, v) -> Json.appendString(key(json, k), v));
            json.append('}');
        }
        long offset = 0;
        for (Declared t : order) {
            key(key(json, t.name).append('{'), Header.DTYPE).append('"').append(t.dtype.name()).append('"');
            key(json, Header.SHAPE).append(Arrays.toString(t.shape).replace(" ", ""));
            long end = Math.addExact(offset, t.bytes);
            key(json, Header.OFFSETS).append('[').append(offset).append(',').append(end).append("]}");
            offset = end;
        }
        json.append('}');
        return pad(json.toString().getBytes(StandardCharsets.UTF_8));
    }

    /** Appends a key and its colon, after a comma unless it is the object's first. */
    private static StringBuilder key(StringBuilder json, String key) {
        if (json.charAt(json.length() - 1) != '{') {
            json.append(',');
        }
        Json.appendString(json, key);
        return json.append(':');
    }

    private byte[] pad(byte[] json) {
        int tail = (Header.LENGTH_BYTES + json.length) % alignment;
        byte[] padded = Arrays.copyOf(json, json.length + (tail == 0 ? 0 : alignment - tail));
        Arrays.fill(padded, json.length, padded.length, (byte) ' ');
        if (padded.length > Header.MAX_BYTES) {
            throw new IllegalStateException("the header of " + tensors.size() + " tensors would take " + padded.length
                    + " bytes, over the format's limit of " + Header.MAX_BYTES);
        }
        return padded;
    }
}
