package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.RootAllocator;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.DType;

/** Files that are unusual and valid. */
class AcceptedFileTest {
    @TempDir
    Path directory;
    private Path file;

    @BeforeEach
    void name() {
        file = directory.resolve("fine.safetensors");
    }

    @ParameterizedTest
    @ValueSource(strings = {"{}", "{}      ", "{} \t\r\n", " {}", "{\"__metadata__\":{}}"})
    void noTensors(String header) throws IOException {
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 0))) {
            assertThat(s.names()).isEmpty();
            assertThat(s.metadata()).isEmpty();
        }
    }

    @Test
    void paddedHeader() throws IOException {
        String header = "{" + RawFile.entry("w", "U8", "[3]", "[0,3]") + "}" + " ".repeat(10_000);
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 3))) {
            assertThat(s.info("w").offset()).isEqualTo(8 + header.length());
            assertThat(s.segment("w").toArray(ValueLayout.JAVA_BYTE)).containsExactly(0, 1, 2);
        }
    }

    @Test
    void scalar() throws IOException {
        String header = "{" + RawFile.entry("s", "I16", "[]", "[0,2]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 2))) {
            assertThat(s.info("s").shape()).isEmpty();
            assertThat(s.info("s").elements()).isEqualTo(1);
            assertThat(s.tensor("s").get(0)).isEqualTo(0x0100);
        }
    }

    @Test
    void zeroSizeTensorsAnywhere() throws IOException {
        String header =
                "{" + RawFile.entry("end", "F64", "[0]", "[4,4]") + "," + RawFile.entry("w", "U8", "[4]", "[0,4]")
                        + "," + RawFile.entry("start", "F64", "[2,0,9223372036854775807]", "[0,0]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 4))) {
            assertThat(s.names()).containsExactly("start", "w", "end");
            assertThat(s.segment("start").byteSize()).isZero();
            assertThat(s.tensor("end").size()).isZero();
        }
    }

    @Test
    void onlyAZeroSizeTensor() throws IOException {
        String header = "{" + RawFile.entry("w", "F4", "[0]", "[0,0]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 0))) {
            assertThat(s.tensor("w").bytes()).isZero();
        }
    }

    @Test
    void fieldsInAnyOrderAndBytesInAnother() throws IOException {
        String header = "{\"b\":{\"data_offsets\":[1,3],\"shape\":[2],\"dtype\":\"U8\"}, "
                + RawFile.entry("a", "U8", "[1]", "[0,1]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 3))) {
            assertThat(s.names()).containsExactly("a", "b");
            assertThat(s.segment("b").toArray(ValueLayout.JAVA_BYTE)).containsExactly(1, 2);
        }
    }

    @Test
    void namesOfAnyKind() throws IOException {
        String header = "{" + RawFile.entry("", "U8", "[1]", "[0,1]") + ","
                + RawFile.entry("\\ud83d\\ude00/\\\"\\u0000", "U8", "[1]", "[1,2]") + ","
                + RawFile.entry("n".repeat(70_000), "U8", "[1]", "[2,3]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 3))) {
            assertThat(s.names()).containsExactly("", "\uD83D\uDE00/\"\0", "n".repeat(70_000));
        }
    }

    @Test
    void shapeOfThousandsOfDimensions() throws IOException {
        String header = "{" + RawFile.entry("w", "U8", "[2" + ",1".repeat(4999) + "]", "[0,2]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, 2))) {
            assertThat(s.info("w").shape()).hasSize(5000);
            assertThat(s.tensor("w").rank()).isEqualTo(5000);
        }
    }

    @ParameterizedTest
    @EnumSource(DType.class)
    void everyDtype(DType dtype) throws IOException {
        int bytes = dtype.bits(); // of 8 elements
        String header = "{" + RawFile.entry("w", dtype.name(), "[2,4]", "[0," + bytes + "]") + "}";
        try (Safetensors s = Safetensors.open(RawFile.write(file, header, bytes))) {
            assertThat(s.info("w").dtype()).isEqualTo(dtype);
            assertThat(s.tensor("w").bytes()).isEqualTo(bytes);
            assertThat(s.info("w").bytes()).isEqualTo(bytes);
        }
    }

    @Test
    void unknownNamesAndClosedFilesAreErrors() throws IOException {
        Safetensors s = Safetensors.open(RawFile.write(file, "{" + RawFile.entry("w", "U8", "[1]", "[0,1]") + "}", 1));
        MemorySegment w = s.segment("w");
        assertThat(s.contains("v")).isFalse();
        assertThatThrownBy(() -> s.tensor("v")).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining(file.toString()).hasMessageContaining("'v'").hasMessageContaining("'w'");
        assertThatThrownBy(() -> w.set(ValueLayout.JAVA_BYTE, 0, (byte) 1)).isInstanceOf(RuntimeException.class);
        s.close();
        s.close();
        assertThatThrownBy(() -> w.get(ValueLayout.JAVA_BYTE, 0)).isInstanceOf(IllegalStateException.class);
        assertThatThrownBy(() -> s.segment("w")).isInstanceOf(IllegalStateException.class);
        assertThat(s.info("w").bytes()).isEqualTo(1);
    }

    @Test
    void missingFilesAndDirectoriesAreIoErrors() {
        assertThatThrownBy(() -> Safetensors.open(file)).isInstanceOf(IOException.class)
                .isNotInstanceOf(SafetensorsException.class).hasMessageContaining(file.toString());
        assertThatThrownBy(() -> Safetensors.open(directory)).isInstanceOf(IOException.class)
                .isNotInstanceOf(SafetensorsException.class);
    }

    /** A sparse file: 3 GiB of zeros take no room. One tensor crosses 2 GiB and another starts past it. */
    @Test
    void beyondTwoGibibytes() throws IOException {
        long big = 3L << 30;
        byte[] header = ("{" + RawFile.entry("big", "U8", "[3," + (1L << 30) + "]", "[0," + big + "]") + ","
                + RawFile.entry("after", "I32", "[2]", "[" + big + "," + (big + 8) + "]") + "}")
                .getBytes(StandardCharsets.UTF_8);
        try (FileChannel out = FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE,
                StandardOpenOption.SPARSE)) {
            out.write(ByteBuffer.wrap(RawFile.bytes(header.length, header, 0)));
            ByteBuffer tail = ByteBuffer.allocate(9).order(ByteOrder.LITTLE_ENDIAN).put((byte) 77).putInt(5).putInt(-6);
            out.write(tail.flip(), 8 + header.length + big - 1);
        }
        try (Safetensors s = Safetensors.open(file); RootAllocator allocator = new RootAllocator()) {
            assertThat(s.segment("big").byteSize()).isEqualTo(big);
            assertThat(s.tensor("big").rows(2, 3).get((1L << 30) - 1)).isEqualTo(77);
            assertThat(s.tensor("big").get(big - 2)).isZero();
            assertThat(s.tensor("after").toInts()).containsExactly(5, -6);
            try (ArrowBuf buffer = s.arrowBuffer("big", allocator)) {
                assertThat(buffer.capacity()).isEqualTo(big);
                assertThat(buffer.getByte(big - 1)).isEqualTo((byte) 77);
            }
            assertThatThrownBy(() -> s.arrowVector("big", allocator)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("big").hasMessageContaining("Arrow buffer");
        }
        assertThat(Files.size(file)).isEqualTo(8 + header.length + big + 8);
    }
}
