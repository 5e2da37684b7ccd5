package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.Set;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.safetensors.SafetensorsException.Kind;

/** Every malformed file has its own kind of error, whose message names the file, the tensor and what is wrong. */
class MalformedFileTest {
    private static final Set<Kind> SEEN = EnumSet.noneOf(Kind.class);
    private static final int OVER_LIMIT = 100_000_001;

    private static int run;

    @TempDir
    Path directory;
    private Path file;

    @BeforeEach
    void name() {
        file = directory.resolve("broken.safetensors");
        run++;
    }

    @AfterAll
    static void everyKindOfOneFileWasProvoked() {
        long tests = Arrays.stream(MalformedFileTest.class.getDeclaredMethods())
                .filter(m -> m.isAnnotationPresent(Test.class)).count();
        // A single test may be run by hand; all of them together must leave no kind out.
        // The kinds from NO_MODEL on belong to SafetensorsModel and its own test.
        if (run == tests) {
            assertThat(SEEN).isEqualTo(EnumSet.range(Kind.FILE_TOO_SHORT, Kind.TRAILING_BYTES));
        }
    }

    private void refused(Kind kind, String tensor, String... says) {
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file).close());
        assertThat(e).as("no error where %s was due", kind).isNotNull();
        assertThat(e.kind()).as(e.getMessage()).isEqualTo(kind);
        assertThat(e.tensor()).isEqualTo(tensor);
        assertThat(e.file()).isEqualTo(file);
        assertThat(e).hasMessageContaining(file.toString());
        if (tensor != null) {
            assertThat(e).hasMessageContaining("tensor '" + tensor + "'");
        }
        assertThat(e.getMessage()).contains(says);
        SEEN.add(kind);
    }

    private void bytes(long length, String header, int dataBytes) throws IOException {
        Files.write(file, RawFile.bytes(length, header.getBytes(StandardCharsets.UTF_8), dataBytes));
    }

    private void header(String json, int dataBytes) throws IOException {
        RawFile.write(file, json, dataBytes);
    }

    /** A file of the tensor "w" alone. */
    private void entry(String dtype, String shape, String offsets, int dataBytes) throws IOException {
        header("{" + RawFile.entry("w", dtype, shape, offsets) + "}", dataBytes);
    }

    @Test
    void fileOfNoBytes() throws IOException {
        Files.createFile(file);
        refused(Kind.FILE_TOO_SHORT, null, "0 bytes");
    }

    @Test
    void fileOfSevenBytes() throws IOException {
        Files.write(file, new byte[7]);
        refused(Kind.FILE_TOO_SHORT, null, "7 bytes");
    }

    @Test
    void lengthNegativeAsALong() throws IOException {
        bytes(-2, "{}", 0);
        refused(Kind.HEADER_LENGTH_NEGATIVE, null, "18446744073709551614", "-2");
    }

    @Test
    void lengthOfTheSmallestNegativeLong() throws IOException {
        bytes(Long.MIN_VALUE, "{}", 0);
        refused(Kind.HEADER_LENGTH_NEGATIVE, null, "9223372036854775808");
    }

    @Test
    void lengthOverTheLimit() throws IOException {
        bytes(OVER_LIMIT, "{}", 0);
        refused(Kind.HEADER_TOO_LARGE, null, "100000001", "100000000");
    }

    @Test
    void lengthOfTheLargestLong() throws IOException {
        bytes(Long.MAX_VALUE, "{}", 0);
        refused(Kind.HEADER_TOO_LARGE, null, "9223372036854775807");
    }

    @Test
    void lengthAtTheLimitPastTheEnd() throws IOException {
        bytes(OVER_LIMIT - 1, "{}", 0);
        refused(Kind.HEADER_PAST_END, null, "100000000", "only 2 follow");
    }

    @Test
    void lengthOnePastTheEnd() throws IOException {
        bytes(3, "{}", 0);
        refused(Kind.HEADER_PAST_END, null, "3 bytes", "cut short");
    }

    @Test
    void notUtf8() throws IOException {
        RawFile.write(file, new byte[]{'{', '"', (byte) 0xff, '"', ':', '1', '}'}, 0);
        refused(Kind.HEADER_NOT_UTF8, null, "UTF-8");
    }

    @Test
    void notUtf8AfterTheObject() throws IOException {
        RawFile.write(file, new byte[]{'{', '}', ' ', (byte) 0xc3}, 0);
        refused(Kind.HEADER_NOT_UTF8, null, "UTF-8");
    }

    @Test
    void surrogateEncodedAsThreeBytes() throws IOException {
        RawFile.write(file, new byte[]{'{', '"', (byte) 0xed, (byte) 0xa0, (byte) 0x80, '"', ':', '1', '}'}, 0);
        refused(Kind.HEADER_NOT_UTF8, null, "UTF-8");
    }

    @Test
    void halfASurrogatePairEscaped() throws IOException {
        for (String half : new String[]{"\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800", "\\udc00\\ud800"}) {
            header("{" + RawFile.entry(half, "U8", "[1]", "[0,1]") + "}", 1);
            refused(Kind.HEADER_NOT_JSON, null, "surrogate");
            header("{\"__metadata__\":{\"k\":\"" + half + "\"}}", 0);
            refused(Kind.HEADER_NOT_JSON, null, "surrogate");
        }
    }

    @Test
    void emptyHeader() throws IOException {
        header("", 0);
        refused(Kind.HEADER_NOT_JSON, null, "empty");
    }

    @Test
    void headerCutOff() throws IOException {
        header("{\"w\":{\"dtype\":\"F32\"", 0);
        refused(Kind.HEADER_NOT_JSON, null, "not JSON");
    }

    @Test
    void headerNotJson() throws IOException {
        header("{w:1}", 0);
        refused(Kind.HEADER_NOT_JSON, null, "not JSON");
    }

    @Test
    void headerWithByteOrderMark() throws IOException {
        header("\ufeff{}", 0);
        refused(Kind.HEADER_NOT_JSON, null, "not JSON");
    }

    @Test
    void headerOfUtf16() throws IOException {
        RawFile.write(file, "{}".getBytes(StandardCharsets.UTF_16LE), 0);
        refused(Kind.HEADER_NOT_JSON, null, "not JSON");
    }

    @Test
    void headerGoesOn() throws IOException {
        header("{}{}", 0);
        refused(Kind.HEADER_NOT_JSON, null, "goes on");
    }

    @Test
    void headerPaddedWithZeros() throws IOException {
        header("{}\0\0", 0);
        refused(Kind.HEADER_NOT_JSON, null, "not JSON");
    }

    @Test
    void headerIsAnArray() throws IOException {
        header("[]", 0);
        refused(Kind.HEADER_NOT_OBJECT, null, "an array");
    }

    @Test
    void headerIsAMillionArrays() throws IOException {
        header("[".repeat(1_000_000), 0);
        refused(Kind.HEADER_NOT_OBJECT, null, "an array");
    }

    @Test
    void shapeNestedAMillionTimes() throws IOException {
        entry("F32", "[".repeat(1_000_000) + "]".repeat(1_000_000), "[0,4]", 4);
        refused(Kind.SHAPE_NOT_NUMBERS, "w", "an array");
    }

    @Test
    void tensorTwice() throws IOException {
        String w = RawFile.entry("w", "U8", "[1]", "[0,1]");
        header("{" + w + "," + w + "}", 1);
        refused(Kind.DUPLICATE_KEY, "w", "twice");
    }

    @Test
    void tensorTwiceThroughAnEscape() throws IOException {
        header("{" + RawFile.entry("w", "U8", "[1]", "[0,1]") + ","
                + RawFile.entry("\\u0077", "U8", "[1]", "[0,1]") + "}", 1);
        refused(Kind.DUPLICATE_KEY, "w", "twice");
    }

    @Test
    void fieldTwice() throws IOException {
        header("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
        refused(Kind.DUPLICATE_KEY, "w", "shape twice");
    }

    @Test
    void metadataTwice() throws IOException {
        header("{\"__metadata__\":{},\"__metadata__\":{}}", 0);
        refused(Kind.DUPLICATE_KEY, null, "__metadata__");
    }

    @Test
    void metadataKeyTwice() throws IOException {
        header("{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}", 0);
        refused(Kind.DUPLICATE_KEY, null, "'a' twice");
    }

    @Test
    void metadataNotAnObject() throws IOException {
        header("{\"__metadata__\":null}", 0);
        refused(Kind.METADATA_NOT_OBJECT, null, "null");
    }

    @Test
    void metadataOfANumber() throws IOException {
        header("{\"__metadata__\":{\"step\":3}}", 0);
        refused(Kind.METADATA_NOT_STRING, null, "'step'", "a number");
    }

    @Test
    void metadataOfAnObject() throws IOException {
        header("{\"__metadata__\":{\"step\":{\"a\":\"b\"}}}", 0);
        refused(Kind.METADATA_NOT_STRING, null, "'step'", "an object");
    }

    @Test
    void entryNotAnObject() throws IOException {
        header("{\"w\":7}", 0);
        refused(Kind.ENTRY_NOT_OBJECT, "w", "a number");
    }

    @Test
    void dtypeMissing() throws IOException {
        header("{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
        refused(Kind.MISSING_FIELD, "w", "lacks dtype");
    }

    @Test
    void shapeMissing() throws IOException {
        header("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4);
        refused(Kind.MISSING_FIELD, "w", "lacks shape");
    }

    @Test
    void offsetsMissing() throws IOException {
        header("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4);
        refused(Kind.MISSING_FIELD, "w", "lacks data_offsets");
    }

    @Test
    void fieldTooMuch() throws IOException {
        header("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}}", 1);
        refused(Kind.UNKNOWN_FIELD, "w", "'strides'");
    }

    @Test
    void dtypeNotAString() throws IOException {
        header("{\"w\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
        refused(Kind.DTYPE_NOT_STRING, "w", "a number");
    }

    @Test
    void dtypeUnknown() throws IOException {
        entry("F128", "[1]", "[0,16]", 16);
        refused(Kind.UNKNOWN_DTYPE, "w", "'F128'", "BF16");
    }

    @Test
    void dtypeInLowerCase() throws IOException {
        entry("f32", "[1]", "[0,4]", 4);
        refused(Kind.UNKNOWN_DTYPE, "w", "'f32'");
    }

    @Test
    void shapeNotAnArray() throws IOException {
        entry("F32", "1", "[0,4]", 4);
        refused(Kind.SHAPE_NOT_NUMBERS, "w", "a number, not an array");
    }

    @Test
    void shapeOfStrings() throws IOException {
        entry("F32", "[\"1\"]", "[0,4]", 4);
        refused(Kind.SHAPE_NOT_NUMBERS, "w", "a string");
    }

    @Test
    void dimensionNegative() throws IOException {
        entry("F32", "[-1,-1]", "[0,4]", 4);
        refused(Kind.NEGATIVE_DIMENSION, "w", "'-1'");
    }

    @Test
    void dimensionFractional() throws IOException {
        entry("F32", "[1.0]", "[0,4]", 4);
        refused(Kind.FRACTIONAL_DIMENSION, "w", "'1.0'");
    }

    @Test
    void dimensionWithExponent() throws IOException {
        entry("F32", "[1e0]", "[0,4]", 4);
        refused(Kind.FRACTIONAL_DIMENSION, "w", "'1e0'");
    }

    @Test
    void dimensionPastALong() throws IOException {
        entry("U8", "[9223372036854775808]", "[0,4]", 4);
        refused(Kind.SHAPE_OVERFLOW, "w", "9223372036854775808");
    }

    @Test
    void dimensionOfAMillionDigits() throws IOException {
        entry("U8", "[1" + "0".repeat(1_000_000) + "]", "[0,4]", 4);
        refused(Kind.SHAPE_OVERFLOW, "w", "1000001 characters");
    }

    @Test
    void shapeOverflowsToItsSpan() throws IOException {
        // 2^32 * 2^32 is 0 and 2^62 elements of 4 bytes are 0 bytes, modulo 2^64.
        entry("U8", "[4294967296,4294967296]", "[0,0]", 0);
        refused(Kind.SHAPE_OVERFLOW, "w", "4294967296");
        entry("F32", "[4611686018427387904]", "[0,0]", 0);
        refused(Kind.SHAPE_OVERFLOW, "w", "4611686018427387904");
    }

    @Test
    void shapeOverflowsBeforeItsZero() throws IOException {
        entry("U8", "[4294967296,4294967296,0]", "[0,0]", 0);
        refused(Kind.SHAPE_OVERFLOW, "w", "overflows");
    }

    @Test
    void halfAByteOfF4() throws IOException {
        entry("F4", "[3]", "[0,2]", 2);
        refused(Kind.PARTIAL_BYTE, "w", "F4[3]");
    }

    @Test
    void partOfAByteOfF6() throws IOException {
        entry("F6_E2M3", "[2]", "[0,2]", 2);
        refused(Kind.PARTIAL_BYTE, "w", "F6_E2M3[2]");
    }

    @Test
    void offsetsNotTwoWholeNumbers() throws IOException {
        for (String offsets : new String[]{"4", "[]", "[0]", "[0,4,4]", "[0,4.0]", "[-0,4]", "[-4,0]", "[0,\"4\"]",
                "[0,[4]]", "null", "[0,9223372036854775808]"}) {
            entry("F32", "[1]", offsets, 4);
            refused(Kind.BAD_OFFSETS, "w", "data_offsets");
        }
    }

    @Test
    void offsetsBackwards() throws IOException {
        entry("F32", "[1]", "[4,0]", 4);
        refused(Kind.OFFSETS_BACKWARDS, "w", "[4, 0]");
    }

    @Test
    void offsetsPastTheEnd() throws IOException {
        entry("F32", "[2]", "[0,8]", 4);
        refused(Kind.OFFSETS_PAST_END, "w", "[0, 8]", "4 data bytes");
    }

    @Test
    void offsetsFarPastTheEnd() throws IOException {
        entry("U8", "[9223372036854775807]", "[0,9223372036854775807]", 4);
        refused(Kind.OFFSETS_PAST_END, "w", "9223372036854775807");
    }

    @Test
    void spanTooLong() throws IOException {
        entry("F32", "[2]", "[0,12]", 12);
        refused(Kind.SPAN_MISMATCH, "w", "F32[2]", "8 bytes", "12");
    }

    @Test
    void spanTooShort() throws IOException {
        entry("F4", "[4]", "[0,1]", 1);
        refused(Kind.SPAN_MISMATCH, "w", "F4[4]", "needs 2 bytes");
    }

    @Test
    void zeroSizeTensorWithBytes() throws IOException {
        entry("F32", "[0,3]", "[0,4]", 4);
        refused(Kind.SPAN_MISMATCH, "w", "needs 0 bytes");
    }

    @Test
    void tensorsOverlap() throws IOException {
        header("{" + RawFile.entry("b", "U8", "[4]", "[2,6]") + "," + RawFile.entry("a", "U8", "[4]", "[0,4]") + "}",
                6);
        refused(Kind.OFFSETS_OVERLAP, "b", "[2, 6]", "[0, 4]", "'a'");
    }

    @Test
    void twoTensorsOfTheSameBytes() throws IOException {
        header("{" + RawFile.entry("a", "U8", "[4]", "[0,4]") + "," + RawFile.entry("b", "F32", "[1]", "[0,4]") + "}",
                4);
        refused(Kind.OFFSETS_OVERLAP, "b", "'a'");
    }

    @Test
    void zeroSizeTensorInsideAnother() throws IOException {
        header("{" + RawFile.entry("a", "U8", "[4]", "[0,4]") + "," + RawFile.entry("b", "F32", "[0]", "[2,2]") + "}",
                4);
        refused(Kind.OFFSETS_OVERLAP, "b", "'a'");
    }

    @Test
    void gapBetweenTensors() throws IOException {
        header("{" + RawFile.entry("a", "U8", "[4]", "[0,4]") + "," + RawFile.entry("b", "U8", "[2]", "[6,8]") + "}",
                8);
        refused(Kind.OFFSETS_GAP, "b", "begin at 6", "end at 4");
    }

    @Test
    void gapBeforeTheFirstTensor() throws IOException {
        entry("U8", "[2]", "[2,4]", 4);
        refused(Kind.OFFSETS_GAP, "w", "begin at 2", "end at 0");
    }

    @Test
    void trailingBytes() throws IOException {
        entry("U8", "[2]", "[0,2]", 5);
        refused(Kind.TRAILING_BYTES, null, "3 bytes");
    }

    @Test
    void trailingBytesAfterNoTensors() throws IOException {
        header("{}", 1);
        refused(Kind.TRAILING_BYTES, null, "1 bytes");
    }

    @Test
    void namesInMessagesAreCutAndCleaned() throws IOException {
        header("{\"" + "x".repeat(100_000) + "\\n\":7}", 0);
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file));
        assertThat(e.getMessage().length()).isLessThan(file.toString().length() + 400);
        header("{\"a\\nb\\u001b[31m\":7}", 0);
        e = catchThrowableOfType(SafetensorsException.class, () -> Safetensors.open(file));
        assertThat(e.getMessage()).contains("'a\\u000ab\\u001b[31m'");
    }
}
