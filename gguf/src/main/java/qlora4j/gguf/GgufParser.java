package qlora4j.gguf;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.gguf.GgufException.Kind;

/**
 * Reads the header of a GGUF file: counts, metadata, tensors' names, shapes and places. Every length is compared with
 * the bytes that are left before anything is allocated for it, and metadata beyond what any model needs is refused, so
 * that a hostile file takes no more memory than an honest one.
 */
final class GgufParser {
    static final int MAGIC = 0x46554747;
    static final int VERSION = 3;
    static final int DEFAULT_ALIGNMENT = 32;
    static final String ALIGNMENT = "general.alignment";
    /** The longest key (GGUF's specification). */
    static final int MAX_KEY = 65535;
    static final int MAX_DIMENSIONS = 4;
    /** The longest single text: chat templates, the longest of them, have some tens of kilobytes. */
    static final long MAX_TEXT = 16L << 20;
    /** Elements of all arrays together: a vocabulary of 262,144 tokens has two million with its scores and merges. */
    static final long MAX_ELEMENTS = 16L << 20;
    /** The fewest bytes of a metadata entry (a key's length, a type, a value) and of a tensor's. */
    private static final long LEAST_ENTRY = Long.BYTES + Integer.BYTES + 1;
    private static final long LEAST_TENSOR = Long.BYTES + 2 * Integer.BYTES + Long.BYTES;
    private static final int LEAST_ALIGNMENT = 8;

    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

    private final Path file;
    private final MemorySegment bytes;
    private long position;
    private long elements;

    private GgufParser(Path file, MemorySegment bytes) {
        this.file = file;
        this.bytes = bytes;
    }

    /** What a header says. */
    record Header(int version, int alignment, Map<String, Object> metadata, Map<String, GgufTensor> tensors) {
    }

    /** One tensor as the header gives it, its place counted from the start of the data. */
    private record Declared(String name, GgmlType type, long[] shape, long offset, long bytes) {
    }

    static Header parse(Path file, MemorySegment bytes) throws GgufException {
        return new GgufParser(file, bytes).header();
    }

    private Header header() throws GgufException {
        if (uint32("the magic number") != MAGIC) {
            throw error(Kind.BAD_MAGIC, "this is no GGUF file: it does not begin with the letters GGUF");
        }
        int version = (int) uint32("the version");
        if (version != 0 && (version & 0xffff) == 0) {
            throw error(Kind.BIG_ENDIAN, "its bytes are in big-endian order, which is not supported; convert it with"
                    + " gguf-py's gguf_convert_endian.py");
        }
        if (version != VERSION && version != VERSION - 1) {
            throw error(Kind.UNSUPPORTED_VERSION, "version " + Integer.toUnsignedString(version)
                    + " of the format is not supported; versions 2 and 3 are");
        }
        long tensorCount = count("tensors", LEAST_TENSOR);
        long entryCount = count("metadata entries", LEAST_ENTRY);
        Map<String, Object> metadata = new LinkedHashMap<>();
        for (long i = 0; i < entryCount; i++) {
            String key = text("the key of metadata entry " + i, MAX_KEY);
            if (key.isEmpty()) {
                throw error(Kind.BAD_NAME, "the key of metadata entry " + i + " is empty");
            }
            String what = "metadata " + GgufException.quote(key);
            if (metadata.containsKey(key)) {
                throw error(Kind.DUPLICATE_KEY, what + " stands twice");
            }
            metadata.put(key, value(type(what), what));
        }
        int alignment = alignment(metadata);
        List<Declared> declared = new ArrayList<>();
        for (long i = 0; i < tensorCount; i++) {
            declared.add(tensor(i));
        }
        long start = Math.ceilDiv(position, alignment) * alignment;
        return new Header(version, alignment, Collections.unmodifiableMap(metadata),
                placed(declared, start, alignment));
    }

    private long count(String what, long least) throws GgufException {
        long n = uint64("the number of " + what);
        if (n < 0 || n > left() / least) {
            throw error(Kind.COUNT_TOO_LARGE, "it announces " + Long.toUnsignedString(n) + " " + what
                    + ", more than its " + bytes.byteSize() + " bytes can hold");
        }
        return n;
    }

    private GgufValueType type(String what) throws GgufException {
        long code = uint32("the type of " + what);
        GgufValueType type = GgufValueType.of(code);
        if (type == null) {
            throw error(Kind.UNKNOWN_VALUE_TYPE, what + " has the type " + code + ", which the format does not have");
        }
        return type;
    }

    private Object value(GgufValueType type, String what) throws GgufException {
        return switch (type) {
            case UINT8 -> (long) Byte.toUnsignedInt(int8(what));
            case INT8 -> (long) int8(what);
            case UINT16 -> (long) Short.toUnsignedInt(int16(what));
            case INT16 -> (long) int16(what);
            case UINT32 -> uint32(what);
            case INT32 -> (long) (int) uint32(what);
            case UINT64 -> unsigned(uint64(what));
            case INT64 -> uint64(what);
            case FLOAT32 -> Float.intBitsToFloat((int) uint32(what));
            case FLOAT64 -> Double.longBitsToDouble(uint64(what));
            case BOOL -> bool(what);
            case STRING -> text(what, MAX_TEXT);
            case ARRAY -> array(what);
        };
    }

    private static Number unsigned(long value) {
        if (value >= 0) {
            return value;
        }
        return new BigInteger(Long.toUnsignedString(value));
    }

    private boolean bool(String what) throws GgufException {
        byte b = int8(what);
        if (b != 0 && b != 1) {
            throw error(Kind.BAD_BOOLEAN, what + " is the boolean " + b + "; 0 or 1 is expected");
        }
        return b == 1;
    }

    /** Texts as a list; whole numbers as {@code long[]}, others as {@code double[]}, booleans as {@code long[]}. */
    private Object array(String what) throws GgufException {
        GgufValueType type = type("the elements of " + what);
        if (type == GgufValueType.ARRAY) {
            throw error(Kind.NESTED_ARRAY, what + " is an array of arrays, which is not supported");
        }
        long n = uint64("the length of " + what);
        if (n < 0 || n > left() / type.leastBytes() || n > MAX_ELEMENTS - elements) {
            throw error(Kind.LENGTH_TOO_LARGE, what + " announces " + Long.toUnsignedString(n) + " elements; "
                    + left() + " bytes are left in the file, and all arrays together may have " + MAX_ELEMENTS
                    + " elements");
        }
        elements += n;
        if (type == GgufValueType.STRING) {
            List<String> texts = new ArrayList<>();
            for (long i = 0; i < n; i++) {
                texts.add(text(what, MAX_TEXT));
            }
            return Collections.unmodifiableList(texts);
        }
        if (type == GgufValueType.FLOAT32 || type == GgufValueType.FLOAT64) {
            double[] numbers = new double[(int) n];
            for (int i = 0; i < numbers.length; i++) {
                numbers[i] = ((Number) value(type, what)).doubleValue();
            }
            return numbers;
        }
        long[] numbers = new long[(int) n];
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = type == GgufValueType.BOOL ? bool(what) ? 1 : 0 : ((Number) value(type, what)).longValue();
        }
        return numbers;
    }

    private int alignment(Map<String, Object> metadata) throws GgufException {
        Object value = metadata.getOrDefault(ALIGNMENT, (long) DEFAULT_ALIGNMENT);
        if (!(value instanceof Long n) || n < LEAST_ALIGNMENT || n > Integer.MAX_VALUE || Long.bitCount(n) != 1) {
            throw error(Kind.BAD_ALIGNMENT, ALIGNMENT + " is " + value + "; a power of two from " + LEAST_ALIGNMENT
                    + " on is expected");
        }
        return n.intValue();
    }

    private Declared tensor(long index) throws GgufException {
        String name = text("the name of tensor " + index, MAX_KEY);
        if (name.isEmpty()) {
            throw error(Kind.BAD_NAME, "the name of tensor " + index + " is empty");
        }
        String what = "tensor " + GgufException.quote(name);
        long rank = uint32("the dimensions of " + what);
        if (rank > MAX_DIMENSIONS) {
            throw error(Kind.TOO_MANY_DIMENSIONS, what + " has " + rank + " dimensions; the format allows "
                    + MAX_DIMENSIONS);
        }
        long[] shape = new long[(int) rank];
        long count = 1;
        for (int i = shape.length - 1; i >= 0; i--) {
            shape[i] = uint64("the dimensions of " + what);
            if (shape[i] < 0 || shape[i] != 0 && count > Long.MAX_VALUE / shape[i]) {
                throw error(Kind.SHAPE_OVERFLOW, what + " has more than 2^63 - 1 elements");
            }
            count *= shape[i];
        }
        long code = uint32("the type of " + what);
        GgmlType type = GgmlType.of(code);
        if (type == null) {
            throw error(Kind.UNKNOWN_TENSOR_TYPE, what + " has the type " + code + ", which is not known here");
        }
        long row = shape.length == 0 ? 1 : shape[shape.length - 1];
        if (row % type.blockElements() != 0) {
            throw error(Kind.PARTIAL_BLOCK, what + " has rows of " + row + " elements, which are no whole blocks of "
                    + type.blockElements() + " as " + type + " needs");
        }
        long offset = uint64("the offset of " + what);
        try {
            return new Declared(name, type, shape, offset, type.bytes(count));
        } catch (ArithmeticException e) {
            throw error(Kind.SHAPE_OVERFLOW, what + " has more than 2^63 - 1 bytes");
        }
    }

    /** Checks that the tensors lie in the file, aligned and apart; the order of the result is that of the header. */
    private Map<String, GgufTensor> placed(List<Declared> declared, long start, int alignment) throws GgufException {
        // Without data the file may end before the first aligned byte.
        long available = Math.max(0, bytes.byteSize() - start);
        Map<String, GgufTensor> tensors = new LinkedHashMap<>();
        for (Declared t : declared) {
            String what = "tensor " + GgufException.quote(t.name);
            if (t.offset % alignment != 0) {
                throw error(Kind.UNALIGNED_TENSOR, what + " starts at byte " + Long.toUnsignedString(t.offset)
                        + " of the data, which is no multiple of the alignment " + alignment);
            }
            if (t.offset < 0 || t.offset > available || t.bytes > available - t.offset) {
                throw error(Kind.TENSOR_PAST_END, what + " takes " + t.bytes + " bytes from byte "
                        + Long.toUnsignedString(t.offset) + " of the data, of which there are "
                        + available + "; is the file cut short?");
            }
            GgufTensor tensor = new GgufTensor(t.name, t.type, t.shape, start + t.offset, t.bytes);
            if (tensors.put(t.name, tensor) != null) {
                throw error(Kind.DUPLICATE_TENSOR, what + " stands twice");
            }
        }
        List<GgufTensor> order = new ArrayList<>(tensors.values());
        order.removeIf(t -> t.bytes() == 0);
        order.sort(Comparator.comparingLong(GgufTensor::offset));
        for (int i = 1; i < order.size(); i++) {
            GgufTensor before = order.get(i - 1);
            GgufTensor t = order.get(i);
            if (t.offset() < before.offset() + before.bytes()) {
                throw error(Kind.TENSOR_OVERLAP, "tensor " + GgufException.quote(t.name()) + " shares bytes with "
                        + GgufException.quote(before.name()));
            }
        }
        return Collections.unmodifiableMap(tensors);
    }

    private String text(String what, long limit) throws GgufException {
        long length = uint64("the length of " + what);
        if (length < 0 || length > limit) {
            throw error(Kind.LENGTH_TOO_LARGE, what + " is announced with " + Long.toUnsignedString(length)
                    + " bytes; at most " + limit + " are read");
        }
        long at = take(length, what);
        try {
            ByteBuffer utf8 = bytes.asSlice(at, length).asByteBuffer();
            return StandardCharsets.UTF_8.newDecoder().decode(utf8).toString();
        } catch (CharacterCodingException e) {
            throw error(Kind.NOT_UTF8, what + " is not valid UTF-8");
        }
    }

    private byte int8(String what) throws GgufException {
        return bytes.get(ValueLayout.JAVA_BYTE, take(Byte.BYTES, what));
    }

    private short int16(String what) throws GgufException {
        return bytes.get(SHORT, take(Short.BYTES, what));
    }

    private long uint32(String what) throws GgufException {
        return Integer.toUnsignedLong(bytes.get(INT, take(Integer.BYTES, what)));
    }

    /** Negative where the value passes 2^63 - 1. */
    private long uint64(String what) throws GgufException {
        return bytes.get(LONG, take(Long.BYTES, what));
    }

    private long left() {
        return bytes.byteSize() - position;
    }

    private long take(long n, String what) throws GgufException {
        if (n > left()) {
            throw error(Kind.TRUNCATED, "the file ends at byte " + bytes.byteSize() + ", inside " + what
                    + "; is it cut short?");
        }
        long at = position;
        position += n;
        return at;
    }

    private GgufException error(Kind kind, String message) {
        return new GgufException(kind, file, message);
    }
}
