package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.safetensors.SafetensorsException.Kind;

/** Every malformed file has its own kind of error, whose message names the file, the tensor and what is wrong. */
class MalformedFileTest {
    private static final int OVER_LIMIT = 100_000_001;

    @TempDir
    Path directory;
    private Path file;

    /** A file's bytes, and its error: the tensor, or null, and what the message says. */
    private record Malformed(String name, Kind kind, String tensor, byte[] bytes, String[] says) {
        @Override
        public String toString() {
            return name;
        }
    }

    private static Malformed of(String name, Kind kind, String tensor, byte[] bytes, String... says) {
        return new Malformed(name, kind, tensor, bytes, says);
    }

    static List<Malformed> files() {
        return List.of(
                of("file of no bytes", Kind.FILE_TOO_SHORT, null, new byte[0], "0 bytes"),
                of("file of seven bytes", Kind.FILE_TOO_SHORT, null, new byte[7], "7 bytes"),
                of("length negative as a long", Kind.HEADER_LENGTH_NEGATIVE, null, length(-2), "18446744073709551614",
                        "-2"),
                of("length of the smallest negative long", Kind.HEADER_LENGTH_NEGATIVE, null, length(Long.MIN_VALUE),
                        "9223372036854775808"),
                of("length over the limit", Kind.HEADER_TOO_LARGE, null, length(OVER_LIMIT), "100000001", "100000000"),
                of("length of the largest long", Kind.HEADER_TOO_LARGE, null, length(Long.MAX_VALUE),
                        "9223372036854775807"),
                of("length at the limit past the end", Kind.HEADER_PAST_END, null, length(OVER_LIMIT - 1), "100000000",
                        "only 2 follow"),
                of("length one past the end", Kind.HEADER_PAST_END, null, length(3), "3 bytes", "cut short"),
                of("not UTF-8", Kind.HEADER_NOT_UTF8, null, raw(new byte[]{'{', '"', (byte) 0xff, '"', ':', '1', '}'}),
                        "UTF-8"),
                of("not UTF-8 after the object", Kind.HEADER_NOT_UTF8, null,
                        raw(new byte[]{'{', '}', ' ', (byte) 0xc3}), "UTF-8"),
                of("surrogate encoded as three bytes", Kind.HEADER_NOT_UTF8, null,
                        raw(new byte[]{'{', '"', (byte) 0xed, (byte) 0xa0, (byte) 0x80, '"', ':', '1', '}'}), "UTF-8"),
                of("empty header", Kind.HEADER_NOT_JSON, null, header("", 0), "empty"),
                of("header cut off", Kind.HEADER_NOT_JSON, null, header("{\"w\":{\"dtype\":\"F32\"", 0), "not JSON"),
                of("header not JSON", Kind.HEADER_NOT_JSON, null, header("{w:1}", 0), "not JSON"),
                of("header with byte order mark", Kind.HEADER_NOT_JSON, null, header("\ufeff{}", 0), "not JSON"),
                of("header of UTF-16", Kind.HEADER_NOT_JSON, null, raw("{}".getBytes(StandardCharsets.UTF_16LE)),
                        "not JSON"),
                of("header goes on", Kind.HEADER_NOT_JSON, null, header("{}{}", 0), "goes on"),
                of("header padded with zeros", Kind.HEADER_NOT_JSON, null, header("{}\0\0", 0), "not JSON"),
                of("header is an array", Kind.HEADER_NOT_OBJECT, null, header("[]", 0), "an array"),
                of("header is a million arrays", Kind.HEADER_NOT_OBJECT, null, header("[".repeat(1_000_000), 0),
                        "an array"),
                of("shape nested a million times", Kind.SHAPE_NOT_NUMBERS, "w",
                        entry("F32", "[".repeat(1_000_000) + "]".repeat(1_000_000), "[0,4]", 4), "an array"),
                of("tensor twice", Kind.DUPLICATE_KEY, "w",
                        two(RawFile.entry("w", "U8", "[1]", "[0,1]"), RawFile.entry("w", "U8", "[1]", "[0,1]"), 1),
                        "twice"),
                of("tensor twice through an escape", Kind.DUPLICATE_KEY, "w",
                        two(RawFile.entry("w", "U8", "[1]", "[0,1]"), RawFile.entry("\\u0077", "U8", "[1]", "[0,1]"),
                                1),
                        "twice"),
                of("field twice", Kind.DUPLICATE_KEY, "w",
                        header("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
                        "shape twice"),
                of("metadata twice", Kind.DUPLICATE_KEY, null, header("{\"__metadata__\":{},\"__metadata__\":{}}", 0),
                        "__metadata__"),
                of("metadata key twice", Kind.DUPLICATE_KEY, null,
                        header("{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}", 0), "'a' twice"),
                of("metadata not an object", Kind.METADATA_NOT_OBJECT, null, header("{\"__metadata__\":null}", 0),
                        "null"),
                of("metadata of a number", Kind.METADATA_NOT_STRING, null, header("{\"__metadata__\":{\"step\":3}}", 0),
                        "'step'", "a number"),
                of("metadata of an object", Kind.METADATA_NOT_STRING, null,
                        header("{\"__metadata__\":{\"step\":{\"a\":\"b\"}}}", 0), "'step'", "an object"),
                of("entry not an object", Kind.ENTRY_NOT_OBJECT, "w", header("{\"w\":7}", 0), "a number"),
                of("dtype missing", Kind.MISSING_FIELD, "w",
                        header("{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4), "lacks dtype"),
                of("shape missing", Kind.MISSING_FIELD, "w",
                        header("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4), "lacks shape"),
                of("offsets missing", Kind.MISSING_FIELD, "w", header("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4),
                        "lacks data_offsets"),
                of("field too much", Kind.UNKNOWN_FIELD, "w",
                        header("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}}", 1),
                        "'strides'"),
                of("dtype not a string", Kind.DTYPE_NOT_STRING, "w",
                        header("{\"w\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "a number"),
                of("dtype unknown", Kind.UNKNOWN_DTYPE, "w", entry("F128", "[1]", "[0,16]", 16), "'F128'", "BF16"),
                of("dtype in lower case", Kind.UNKNOWN_DTYPE, "w", entry("f32", "[1]", "[0,4]", 4), "'f32'"),
                of("shape not an array", Kind.SHAPE_NOT_NUMBERS, "w", entry("F32", "1", "[0,4]", 4),
                        "a number, not an array"),
                of("shape of strings", Kind.SHAPE_NOT_NUMBERS, "w", entry("F32", "[\"1\"]", "[0,4]", 4), "a string"),
                of("dimension negative", Kind.NEGATIVE_DIMENSION, "w", entry("F32", "[-1,-1]", "[0,4]", 4), "'-1'"),
                of("dimension fractional", Kind.FRACTIONAL_DIMENSION, "w", entry("F32", "[1.0]", "[0,4]", 4), "'1.0'"),
                of("dimension with exponent", Kind.FRACTIONAL_DIMENSION, "w", entry("F32", "[1e0]", "[0,4]", 4),
                        "'1e0'"),
                of("dimension past a long", Kind.SHAPE_OVERFLOW, "w", entry("U8", "[9223372036854775808]", "[0,4]", 4),
                        "9223372036854775808"),
                of("dimension of a million digits", Kind.SHAPE_OVERFLOW, "w",
                        entry("U8", "[1" + "0".repeat(1_000_000) + "]", "[0,4]", 4), "1000001 characters"),
                // 2^32 * 2^32 is 0 and 2^62 elements of 4 bytes are 0 bytes, modulo 2^64.
                of("shape of bytes overflows to its span", Kind.SHAPE_OVERFLOW, "w",
                        entry("U8", "[4294967296,4294967296]", "[0,0]", 0), "4294967296"),
                of("shape of floats overflows to its span", Kind.SHAPE_OVERFLOW, "w",
                        entry("F32", "[4611686018427387904]", "[0,0]", 0), "4611686018427387904"),
                of("shape overflows before its zero", Kind.SHAPE_OVERFLOW, "w",
                        entry("U8", "[4294967296,4294967296,0]", "[0,0]", 0), "overflows"),
                of("half a byte of F4", Kind.PARTIAL_BYTE, "w", entry("F4", "[3]", "[0,2]", 2), "F4[3]"),
                of("part of a byte of F6", Kind.PARTIAL_BYTE, "w", entry("F6_E2M3", "[2]", "[0,2]", 2), "F6_E2M3[2]"),
                of("offsets not an array", Kind.BAD_OFFSETS, "w", entry("F32", "[1]", "4", 4), "data_offsets"),
                of("offsets backwards", Kind.OFFSETS_BACKWARDS, "w", entry("F32", "[1]", "[4,0]", 4), "[4, 0]"),
                of("offsets past the end", Kind.OFFSETS_PAST_END, "w", entry("F32", "[2]", "[0,8]", 4), "[0, 8]",
                        "4 data bytes"),
                of("offsets far past the end", Kind.OFFSETS_PAST_END, "w",
                        entry("U8", "[9223372036854775807]", "[0,9223372036854775807]", 4), "9223372036854775807"),
                of("span too long", Kind.SPAN_MISMATCH, "w", entry("F32", "[2]", "[0,12]", 12), "F32[2]", "8 bytes",
                        "12"),
                of("span too short", Kind.SPAN_MISMATCH, "w", entry("F4", "[4]", "[0,1]", 1), "F4[4]", "needs 2 bytes"),
                of("zero size tensor with bytes", Kind.SPAN_MISMATCH, "w", entry("F32", "[0,3]", "[0,4]", 4),
                        "needs 0 bytes"),
                of("tensors overlap", Kind.OFFSETS_OVERLAP, "b",
                        two(RawFile.entry("b", "U8", "[4]", "[2,6]"), RawFile.entry("a", "U8", "[4]", "[0,4]"), 6),
                        "[2, 6]", "[0, 4]", "'a'"),
                of("two tensors of the same bytes", Kind.OFFSETS_OVERLAP, "b",
                        two(RawFile.entry("a", "U8", "[4]", "[0,4]"), RawFile.entry("b", "F32", "[1]", "[0,4]"), 4),
                        "'a'"),
                of("zero size tensor inside another", Kind.OFFSETS_OVERLAP, "b",
                        two(RawFile.entry("a", "U8", "[4]", "[0,4]"), RawFile.entry("b", "F32", "[0]", "[2,2]"), 4),
                        "'a'"),
                of("gap between tensors", Kind.OFFSETS_GAP, "b",
                        two(RawFile.entry("a", "U8", "[4]", "[0,4]"), RawFile.entry("b", "U8", "[2]", "[6,8]"), 8),
                        "begin at 6", "end at 4"),
                of("gap before the first tensor", Kind.OFFSETS_GAP, "w", entry("U8", "[2]", "[2,4]", 4), "begin at 2",
                        "end at 0"),
                of("trailing bytes", Kind.TRAILING_BYTES, null, entry("U8", "[2]", "[0,2]", 5), "3 bytes"),
                of("trailing bytes after no tensors", Kind.TRAILING_BYTES, null, header("{}", 1), "1 bytes"));
    }

    private static byte[] raw(byte... header) {
        return RawFile.bytes(header.length, header, 0);
    }

    /** A file that says its header is this long, and has an empty one. */
    private static byte[] length(long length) {
        return RawFile.bytes(length, "{}".getBytes(StandardCharsets.UTF_8), 0);
    }

    private static byte[] header(String json, int dataBytes) {
        byte[] header = json.getBytes(StandardCharsets.UTF_8);
        return RawFile.bytes(header.length, header, dataBytes);
    }

    /** A file of the tensor "w" alone. */
    private static byte[] entry(String dtype, String shape, String offsets, int dataBytes) {
        return header("{" + RawFile.entry("w", dtype, shape, offsets) + "}", dataBytes);
    }

    private static byte[] two(String entry, String other, int dataBytes) {
        return header("{" + entry + "," + other + "}", dataBytes);
    }

    @BeforeEach
    void name() {
        file = directory.resolve("broken.safetensors");
    }

    /** The kinds from NO_MODEL on belong to SafetensorsModel and its own test. */
    @Test
    void everyKindOfOneFileIsAmongThem() {
        assertThat(files().stream().map(Malformed::kind).collect(Collectors.toSet()))
                .isEqualTo(EnumSet.range(Kind.FILE_TOO_SHORT, Kind.TRAILING_BYTES));
    }

    @ParameterizedTest
    @MethodSource("files")
    void isRefused(Malformed malformed) throws IOException {
        refused(malformed);
    }

    private void refused(Malformed malformed) throws IOException {
        Files.write(file, malformed.bytes);
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file).close());
        assertThat(e).as("no error where %s was due", malformed.kind).isNotNull();
        assertThat(e.kind()).as(e.getMessage()).isEqualTo(malformed.kind);
        assertThat(e.tensor()).isEqualTo(malformed.tensor);
        assertThat(e.file()).isEqualTo(file);
        assertThat(e).hasMessageContaining(file.toString());
        if (malformed.tensor != null) {
            assertThat(e).hasMessageContaining("tensor '" + malformed.tensor + "'");
        }
        assertThat(e.getMessage()).contains(malformed.says);
    }

    @ParameterizedTest
    @ValueSource(strings = {"\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800", "\\udc00\\ud800"})
    void halfASurrogatePairEscaped(String half) throws IOException {
        refused(of("in a name", Kind.HEADER_NOT_JSON, null,
                header("{" + RawFile.entry(half, "U8", "[1]", "[0,1]") + "}", 1), "surrogate"));
        refused(of("in metadata", Kind.HEADER_NOT_JSON, null,
                header("{\"__metadata__\":{\"k\":\"" + half + "\"}}", 0), "surrogate"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"[]", "[0]", "[0,4,4]", "[0,4.0]", "[-0,4]", "[-4,0]", "[0,\"4\"]", "[0,[4]]", "null",
            "[0,9223372036854775808]"})
    void offsetsNotTwoWholeNumbers(String offsets) throws IOException {
        refused(of(offsets, Kind.BAD_OFFSETS, "w", entry("F32", "[1]", offsets, 4), "data_offsets"));
    }

    @Test
    void namesInMessagesAreCutAndCleaned() throws IOException {
        Files.write(file, header("{\"" + "x".repeat(100_000) + "\\n\":7}", 0));
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file));
        assertThat(e.getMessage().length()).isLessThan(file.toString().length() + 400);
        Files.write(file, header("{\"a\\nb\\u001b[31m\":7}", 0));
        e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file));
        assertThat(e.getMessage()).contains("'a\\u000ab\\u001b[31m'");
    }
}
