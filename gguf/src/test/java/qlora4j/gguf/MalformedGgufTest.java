package qlora4j.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.gguf.GgufException.Kind;

/** Each malformed file is refused by its own kind of error, which names the file; none takes memory or time. */
class MalformedGgufTest {
    private static final int F32 = GgmlType.F32.code();
    private static final int Q8 = GgmlType.Q8_0.code();

    @TempDir
    private Path folder;

    static Stream<Arguments> malformed() {
        return Stream.of(
                bad(Kind.TRUNCATED, "the magic number", new RawGguf().int8('G').int8('G')),
                bad(Kind.BAD_MAGIC, "no GGUF file", new RawGguf().int32(0x04034b50).int32(3).int64(0).int64(0)),
                bad(Kind.BIG_ENDIAN, "big-endian", RawGguf.of(0x03000000, 0, 0)),
                bad(Kind.UNSUPPORTED_VERSION, "version 1 ", RawGguf.of(1, 0, 0)),
                bad(Kind.UNSUPPORTED_VERSION, "version 4 ", RawGguf.of(4, 0, 0)),
                bad(Kind.UNSUPPORTED_VERSION, "version 0 ", RawGguf.of(0, 0, 0)),
                bad(Kind.TRUNCATED, "number of metadata entries", new RawGguf().int32(GgufParser.MAGIC).int32(3)
                        .int64(0).int32(0)),
                bad(Kind.COUNT_TOO_LARGE, "9223372036854775807 tensors", RawGguf.of(3, Long.MAX_VALUE, 0)),
                bad(Kind.COUNT_TOO_LARGE, "18446744073709551615 metadata entries", RawGguf.of(3, 0, -1)),
                bad(Kind.LENGTH_TOO_LARGE, "the key of metadata entry 0", RawGguf.of(3, 0, 1).int64(1L << 40).int64(0)),
                bad(Kind.LENGTH_TOO_LARGE, "18446744073709551615", RawGguf.of(3, 0, 1).int64(-1).int64(0)),
                bad(Kind.TRUNCATED, "the key of metadata entry 0", RawGguf.of(3, 0, 1).int64(200).int64(0)),
                bad(Kind.BAD_NAME, "entry 0 is empty", RawGguf.of(3, 0, 1).key("", GgufValueType.BOOL).int8(1)),
                bad(Kind.NOT_UTF8, "the key", RawGguf.of(3, 0, 1).int64(2).raw((byte) 0xc3, (byte) 0x28).int32(7)
                        .int8(1)),
                bad(Kind.NOT_UTF8, "'a'", RawGguf.of(3, 0, 1).key("a", GgufValueType.STRING).int64(1).raw((byte) 0xff)),
                bad(Kind.DUPLICATE_KEY, "'a'", RawGguf.of(3, 0, 2).key("a", GgufValueType.BOOL).int8(1)
                        .key("a", GgufValueType.BOOL).int8(1)),
                bad(Kind.UNKNOWN_VALUE_TYPE, "type 13", RawGguf.of(3, 0, 1).text("a").int32(13)),
                bad(Kind.UNKNOWN_VALUE_TYPE, "type 4294967295", RawGguf.of(3, 0, 1).text("a").int32(-1)),
                bad(Kind.NESTED_ARRAY, "'a'", array(GgufValueType.ARRAY, 1)),
                bad(Kind.BAD_BOOLEAN, "'a'", RawGguf.of(3, 0, 1).key("a", GgufValueType.BOOL).int8(2)),
                bad(Kind.LENGTH_TOO_LARGE, "9223372036854775807 elements", array(GgufValueType.UINT8, Long.MAX_VALUE)),
                bad(Kind.LENGTH_TOO_LARGE, "18446744073709551615 elements", array(GgufValueType.STRING, -1)),
                bad(Kind.LENGTH_TOO_LARGE, "1000 elements", array(GgufValueType.FLOAT64, 1000)),
                bad(Kind.LENGTH_TOO_LARGE, "'a'", RawGguf.of(3, 0, 1).key("a", GgufValueType.STRING).int64(1L << 60)),
                bad(Kind.BAD_ALIGNMENT, "is 48", aligned(48)), bad(Kind.BAD_ALIGNMENT, "is 0", aligned(0)),
                bad(Kind.BAD_ALIGNMENT, "is 4", aligned(4)),
                bad(Kind.BAD_NAME, "tensor 0 is empty", RawGguf.of(3, 1, 0).tensor("", F32, 0, 8).data(32)),
                bad(Kind.DUPLICATE_TENSOR, "'t'", RawGguf.of(3, 2, 0).tensor("t", F32, 0, 8).tensor("t", F32, 32, 8)
                        .data(64)),
                bad(Kind.TOO_MANY_DIMENSIONS, "5 dimensions", RawGguf.of(3, 1, 0).tensor("t", F32, 0, 1, 1, 1, 1, 1)
                        .data(32)),
                bad(Kind.TOO_MANY_DIMENSIONS, "4294967295", RawGguf.of(3, 1, 0).text("t").int32(-1).int64(0).int64(0)),
                bad(Kind.UNKNOWN_TENSOR_TYPE, "type 4,", RawGguf.of(3, 1, 0).tensor("t", 4, 0, 32).data(32)),
                bad(Kind.UNKNOWN_TENSOR_TYPE, "type 99", RawGguf.of(3, 1, 0).tensor("t", 99, 0, 32).data(32)),
                bad(Kind.SHAPE_OVERFLOW, "elements", RawGguf.of(3, 1, 0).tensor("t", F32, 0, 1L << 32, 1L << 32)
                        .data(32)),
                bad(Kind.SHAPE_OVERFLOW, "elements", RawGguf.of(3, 1, 0).tensor("t", F32, 0, -1).data(32)),
                bad(Kind.SHAPE_OVERFLOW, "bytes", RawGguf.of(3, 1, 0).tensor("t", F32, 0, 1L << 61, 2).data(32)),
                bad(Kind.PARTIAL_BLOCK, "33 elements", RawGguf.of(3, 1, 0).tensor("t", Q8, 0, 33).data(68)),
                bad(Kind.UNALIGNED_TENSOR, "byte 4", RawGguf.of(3, 1, 0).tensor("t", F32, 4, 8).data(64)),
                bad(Kind.TENSOR_PAST_END, "cut short", RawGguf.of(3, 1, 0).tensor("t", F32, 0, 8).data(31)),
                bad(Kind.TENSOR_PAST_END, "cut short", RawGguf.of(3, 1, 0).tensor("t", F32, 1L << 62, 8).data(32)),
                bad(Kind.TENSOR_PAST_END, "9223372036854775808", RawGguf.of(3, 1, 0).tensor("t", F32, 1L << 63, 8)
                        .data(32)),
                bad(Kind.TENSOR_OVERLAP, "'u' shares bytes with 't'", RawGguf.of(3, 2, 0).tensor("t", F32, 0, 16)
                        .tensor("u", F32, 32, 8).data(96)));
    }

    private static Arguments bad(Kind kind, String message, RawGguf file) {
        return Arguments.of(kind, message, file);
    }

    private static RawGguf array(GgufValueType type, long length) {
        return RawGguf.of(3, 0, 1).key("a", GgufValueType.ARRAY).int32(type.ordinal()).int64(length).int64(0).int64(0);
    }

    private static RawGguf aligned(int alignment) {
        return RawGguf.of(3, 0, 1).key("general.alignment", GgufValueType.UINT32).int32(alignment);
    }

    @ParameterizedTest
    @MethodSource("malformed")
    void isRefused(Kind kind, String message, RawGguf raw) throws IOException {
        Path file = raw.write(folder.resolve("bad.gguf"));
        assertThatThrownBy(() -> Gguf.open(file)).isInstanceOf(GgufException.class)
                .hasMessageStartingWith(file + ": ").hasMessageContaining(message)
                .extracting(e -> ((GgufException) e).kind()).isEqualTo(kind);
    }

    /** A good file of every kind of value, cut anywhere, is refused; it never reads past its end nor gives nonsense. */
    @Test
    void anyCutIsNoticed() throws IOException {
        byte[] whole = Files.readAllBytes(GgufTest.everything(folder.resolve("whole.gguf")));
        long end;
        try (Gguf gguf = Gguf.open(folder.resolve("whole.gguf"))) {
            GgufTensor last = gguf.tensors().get("second");
            end = last.offset() + last.bytes();
        }
        for (int length = 0; length < end; length++) {
            Path file = Files.write(folder.resolve("cut.gguf"), Arrays.copyOf(whole, length));
            assertThatThrownBy(() -> Gguf.open(file)).as("%d bytes", length).isInstanceOf(GgufException.class);
        }
    }

    /** Damage gives a good file or a {@code GgufException}, never another exception. */
    @Test
    void damageIsNoticedOrHarmless() throws IOException {
        byte[] whole = Files.readAllBytes(GgufTest.everything(folder.resolve("whole.gguf")));
        Random random = new Random(7);
        int refused = 0;
        for (int i = 0; i < 3000; i++) {
            byte[] damaged = whole.clone();
            for (int k = random.nextInt(3); k >= 0; k--) {
                damaged[random.nextInt(damaged.length)] = (byte) (random.nextBoolean() ? 0xff : random.nextInt());
            }
            Path file = Files.write(folder.resolve("damaged.gguf"), damaged);
            try (Gguf gguf = Gguf.open(file)) {
                gguf.tensors().values().forEach(t -> assertThat(gguf.segment(t).byteSize()).isEqualTo(t.bytes()));
            } catch (GgufException e) {
                refused++;
            }
        }
        assertThat(refused).isGreaterThan(300);
    }

    /** What a hostile file announces is compared with what it has before memory is taken for it. */
    @Test
    void arraysTogetherAreBounded() throws IOException {
        int n = (int) (GgufParser.MAX_ELEMENTS / 2 + 1);
        RawGguf raw = RawGguf.of(3, 0, 2);
        for (String key : new String[]{"a", "b"}) {
            raw.key(key, GgufValueType.ARRAY).int32(GgufValueType.UINT8.ordinal()).int64(n).raw(new byte[n]);
        }
        Path file = raw.write(folder.resolve("large.gguf"));
        assertThatThrownBy(() -> Gguf.open(file)).isInstanceOf(GgufException.class).hasMessageContaining("'b'")
                .extracting(e -> ((GgufException) e).kind()).isEqualTo(Kind.LENGTH_TOO_LARGE);
    }
}
