package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** What is written, byte for byte, and what is left behind when writing fails. */
class SafetensorsWriterTest {
    @TempDir
    Path directory;
    private Path file;

    @BeforeEach
    void name() {
        file = directory.resolve("out.safetensors");
    }

    private static Tensor bytes(int n) {
        return Tensor.zeros(DType.U8, n);
    }

    private List<String> left() throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return files.map(p -> p.getFileName().toString()).toList();
        }
    }

    @Test
    void smallFileByteForByte() throws IOException {
        new SafetensorsWriter().metadata("b", "2").metadata("a", "1").add("s", Tensor.of(new int[]{258})).write(file);
        String header = "{\"__metadata__\":{\"a\":\"1\",\"b\":\"2\"},"
                + "\"s\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}";
        String padded = header + " ".repeat((8 - header.length() % 8) % 8);
        byte[] expected = new byte[8 + padded.length() + 4];
        expected[0] = (byte) padded.length();
        System.arraycopy(padded.getBytes(StandardCharsets.UTF_8), 0, expected, 8, padded.length());
        expected[expected.length - 4] = 2;
        expected[expected.length - 3] = 1;
        assertThat(Files.readAllBytes(file)).isEqualTo(expected);
    }

    @Test
    void noTensors() throws IOException {
        new SafetensorsWriter().write(file);
        assertThat(Files.readAllBytes(file)).containsExactly(8, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' ', ' ', ' ', ' ',
                ' ');
    }

    @Test
    void everyTensorIsAlignedToItsElements() throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter();
        for (DType d : DType.values()) {
            // 8 elements more: the sizes are odd multiples of the element's.
            writer.add(d.name(), d, MemorySegment.ofArray(new byte[3 * d.bits()]), 3, 8);
        }
        writer.write(file);
        try (Safetensors s = Safetensors.open(file)) {
            assertThat(s.names()).hasSize(DType.values().length);
            int width = 64;
            for (String n : s.names()) {
                TensorInfo info = s.info(n);
                assertThat(info.offset() % Math.max(1, info.dtype().bits() / 8)).as(n).isZero();
                if (info.dtype() != DType.BOOL && info.dtype().bits() >= 8) {
                    assertThat(info.dtype().bits()).as(n).isLessThanOrEqualTo(width);
                    width = info.dtype().bits();
                }
            }
        }
    }

    @Test
    void insertionOrderAndWiderAlignment() throws IOException {
        new SafetensorsWriter().keepInsertionOrder().alignment(4096).add("z", bytes(3))
                .add("a", Tensor.of(new double[]{2.5}, 1)).write(file);
        try (Safetensors s = Safetensors.open(file)) {
            assertThat(s.names()).containsExactly("z", "a");
            assertThat(s.info("z").offset()).isEqualTo(4096);
            assertThat(s.tensor("a").get(0)).isEqualTo(2.5);
        }
    }

    @Test
    void streamedTensorsAreAskedForInTheOrderOfTheFile() throws IOException {
        List<String> asked = new ArrayList<>();
        SafetensorsWriter writer = new SafetensorsWriter();
        writer.add("narrow", DType.U8, sink -> {
            asked.add("narrow");
            sink.write(MemorySegment.ofArray(new byte[]{1}));
            sink.write(MemorySegment.ofArray(new byte[0]));
            sink.write(MemorySegment.ofArray(new byte[]{2, 3}));
        }, 3);
        writer.add("empty", DType.F64, sink -> asked.add("empty"), 0);
        writer.add("wide", DType.F32, sink -> {
            asked.add("wide");
            sink.write(Tensor.of(new float[]{4}, 1).data());
        }, 1);
        assertThat(asked).isEmpty();
        writer.write(file);
        assertThat(asked).containsExactly("empty", "wide", "narrow");
        try (Safetensors s = Safetensors.open(file)) {
            assertThat(s.segment("narrow").toArray(ValueLayout.JAVA_BYTE)).containsExactly(1, 2, 3);
            assertThat(s.tensor("wide").get(0)).isEqualTo(4);
        }
        assertThat(Files.size(file)).isEqualTo(writer.fileBytes());
    }

    @Test
    void tensorsOfManyPiecesFromHeapAndNativeMemory() throws IOException {
        byte[] heap = new byte[(5 << 20) + 3];
        for (int i = 0; i < heap.length; i++) {
            heap[i] = (byte) (i * 31 + (i >> 9));
        }
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment outside = arena.allocate(heap.length).copyFrom(MemorySegment.ofArray(heap));
            new SafetensorsWriter().add("heap", DType.U8, MemorySegment.ofArray(heap), heap.length)
                    .add("native", DType.I8, outside, heap.length).write(file);
        }
        try (Safetensors s = Safetensors.open(file)) {
            assertThat(s.segment("heap").toArray(ValueLayout.JAVA_BYTE)).isEqualTo(heap);
            assertThat(s.segment("native").toArray(ValueLayout.JAVA_BYTE)).isEqualTo(heap);
        }
    }

    @Test
    void aFileThatIsOpenCanBeReplaced() throws IOException {
        new SafetensorsWriter().add("w", Tensor.of(new float[]{1}, 1)).write(file);
        try (Safetensors old = Safetensors.open(file)) {
            new SafetensorsWriter().add("w", Tensor.of(new float[]{2}, 1)).add("v", old.tensor("w")).write(file);
            assertThat(old.tensor("w").get(0)).isEqualTo(1);
            try (Safetensors s = Safetensors.open(file)) {
                assertThat(s.tensor("w").get(0)).isEqualTo(2);
                assertThat(s.tensor("v").get(0)).isEqualTo(1);
            }
        }
        assertThat(left()).containsExactly("out.safetensors");
    }

    @Test
    void aSourceThatFailsLeavesTheOldFile() throws IOException {
        Files.writeString(file, "old");
        SafetensorsWriter failing = new SafetensorsWriter().add("a", bytes(100_000)).add("b", DType.U8, sink -> {
            sink.write(MemorySegment.ofArray(new byte[1]));
            throw new IllegalStateException("no more");
        }, 2);
        assertThatThrownBy(() -> failing.write(file)).isInstanceOf(IllegalStateException.class).hasMessage("no more");
        assertThat(Files.readString(file)).isEqualTo("old");
        assertThat(left()).containsExactly("out.safetensors");
    }

    @Test
    void aSourceOfTooFewOrTooManyBytesIsAnError() throws IOException {
        SafetensorsWriter few = new SafetensorsWriter().add("w", DType.I32,
                sink -> sink.write(MemorySegment.ofArray(new byte[7])), 2);
        assertThatThrownBy(() -> few.write(file)).isInstanceOf(IOException.class).hasMessageContaining("'w'")
                .hasMessageContaining("8 bytes").hasMessageContaining("only 7").hasMessageContaining(file.toString());
        SafetensorsWriter many = new SafetensorsWriter().add("w", DType.I32,
                sink -> sink.write(MemorySegment.ofArray(new byte[9])), 2);
        assertThatThrownBy(() -> many.write(file)).isInstanceOf(IOException.class).hasMessageContaining("gave more");
        assertThat(left()).isEmpty();
    }

    @Test
    void aMissingDirectoryIsAnError() {
        Path absent = directory.resolve("absent").resolve("out.safetensors");
        assertThatThrownBy(() -> new SafetensorsWriter().write(absent)).isInstanceOf(IOException.class)
                .hasMessageContaining("absent");
    }

    @Test
    void declarationsThatCannotBeWritten() throws IOException {
        SafetensorsWriter w = new SafetensorsWriter().add("a", bytes(1));
        assertThatThrownBy(() -> w.add("a", bytes(1))).hasMessageContaining("'a'").hasMessageContaining("twice");
        assertThatThrownBy(() -> w.add("__metadata__", bytes(1))).hasMessageContaining("reserves");
        assertThatThrownBy(() -> w.add("\ud800", bytes(1))).hasMessageContaining("surrogate");
        assertThatThrownBy(() -> w.metadata("k", "\udc00")).hasMessageContaining("surrogate");
        assertThatThrownBy(() -> w.add("b", DType.F32, MemorySegment.ofArray(new byte[5]), 1))
                .hasMessageContaining("'b'").hasMessageContaining("needs 4 bytes").hasMessageContaining("has 5");
        assertThatThrownBy(() -> w.add("b", DType.F4, MemorySegment.ofArray(new byte[2]), 3))
                .hasMessageContaining("'b'").hasMessageContaining("whole bytes");
        assertThatThrownBy(() -> w.add("b", DType.U8, s -> {}, -1)).hasMessageContaining("negative");
        assertThatThrownBy(() -> w.add("b", DType.U8, s -> {}, 1L << 62, 4)).hasMessageContaining("overflow");
        assertThatThrownBy(() -> w.add("b", Tensor.shapeOnly(DType.F32, 1))).hasMessageContaining("host");
        assertThatThrownBy(() -> w.alignment(12)).hasMessageContaining("12");
        assertThatThrownBy(() -> w.alignment(4)).hasMessageContaining("4");
        // A refused declaration leaves its name free.
        w.add("b", bytes(2)).write(file);
        try (Safetensors written = Safetensors.open(file)) {
            assertThat(written.names()).containsExactly("a", "b");
        }
    }
}
