package qlora4j.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What is written is read back, and files that llama.cpp would read are. */
class GgufTest {
    @TempDir
    private Path folder;

    /** Writes a file with a value of every type that the writer has, and two tensors. */
    static Path everything(Path file) throws IOException {
        new GgufWriter().text("text", "Größe \u2581").uint32("count", 7).float32("eps", 1e-5).flag("yes", true)
                .texts("texts", List.of("a", "", "b")).int32s("ids", new int[]{1, -2})
                .float32s("scores", new float[]{0.5f, -1})
                .tensor("first", GgmlType.F32, new long[]{2, 3},
                        sink -> sink.write(MemorySegment.ofBuffer(java.nio.ByteBuffer.allocateDirect(24)
                                .order(java.nio.ByteOrder.LITTLE_ENDIAN).putFloat(0, 1.5f).putFloat(20, -2))))
                .tensor("second", GgmlType.Q8_0, new long[]{32},
                        sink -> sink.write(MemorySegment.ofArray(new byte[34])))
                .write(file);
        return file;
    }

    @Test
    void whatIsWrittenIsRead() throws IOException {
        try (Gguf gguf = Gguf.open(everything(folder.resolve("all.gguf")))) {
            assertThat(gguf.version()).isEqualTo(3);
            assertThat(gguf.alignment()).isEqualTo(32);
            GgufMetadata m = gguf.metadata();
            assertThat(m.keys()).containsExactly("text", "count", "eps", "yes", "texts", "ids", "scores");
            assertThat(m.text("text")).isEqualTo("Größe \u2581");
            assertThat(m.integer("count")).isEqualTo(7);
            assertThat(m.number("eps")).isEqualTo(1e-5);
            assertThat(m.flag("yes", false)).isTrue();
            assertThat(m.texts("texts")).containsExactly("a", "", "b");
            assertThat(m.integers("ids")).containsExactly(1, -2);
            assertThat(m.numbers("scores")).containsExactly(0.5, -1);
            GgufTensor first = gguf.tensors().get("first");
            assertThat(first.shape()).containsExactly(2, 3);
            assertThat(first.offset() % 32).isZero();
            assertThat(TensorReader.values(gguf, first)).containsExactly(1.5f, 0, 0, 0, 0, -2);
            assertThat(gguf.tensors().get("second").bytes()).isEqualTo(34);
            assertThat(gguf.segment(first).isReadOnly()).isTrue();
            assertThatThrownBy(() -> gguf.segment(first).set(ValueLayout.JAVA_BYTE, 0, (byte) 1))
                    .isInstanceOf(IllegalArgumentException.class);
        }
    }

    @Test
    void versionTwoAndItsOwnAlignmentAndUnsortedTensorsAreRead() throws IOException {
        RawGguf raw = RawGguf.of(2, 2, 2).key("general.alignment", GgufValueType.UINT32).int32(64)
                .key("large", GgufValueType.UINT64).int64(-1).tensor("b", GgmlType.F16.code(), 64, 4)
                .tensor("a", GgmlType.I8.code(), 0, 2, 3, 4);
        int header = Math.ceilDiv(raw.bytes().length, 64) * 64;
        Path file = raw.raw(new byte[header - raw.bytes().length + 72]).write(folder.resolve("v2.gguf"));
        try (Gguf gguf = Gguf.open(file)) {
            assertThat(gguf.version()).isEqualTo(2);
            assertThat(gguf.tensors().get("a").shape()).containsExactly(4, 3, 2);
            assertThat(gguf.tensors().get("b").offset()).isEqualTo(header + 64);
            assertThat(gguf.metadata().shown("large")).isEqualTo(BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE)
                    .toString());
            assertThatThrownBy(() -> gguf.metadata().integer("large")).isInstanceOf(GgufException.class)
                    .hasMessageContaining("large");
            assertThatThrownBy(() -> gguf.metadata().text("absent")).isInstanceOf(GgufException.class)
                    .hasMessageContaining("absent");
        }
    }

    @Test
    void aTensorOfAnotherLengthIsNotWritten() throws IOException {
        Path file = Files.writeString(folder.resolve("old.gguf"), "old");
        for (int n : new int[]{0, 12, 20}) {
            GgufWriter writer = new GgufWriter().tensor("t", GgmlType.F32, new long[]{4},
                    sink -> sink.write(MemorySegment.ofArray(new byte[n])));
            assertThatThrownBy(() -> writer.write(file)).isInstanceOf(IOException.class).hasMessageContaining("t");
        }
        assertThat(file).hasContent("old");
        assertThat(Files.list(folder)).hasSize(1);
    }

    @Test
    void theWriterRefusesWhatNoReaderTakes() {
        GgufWriter writer = new GgufWriter().uint32("a", 1).tensor("t", GgmlType.F32, new long[]{1}, sink -> {
        });
        assertThatThrownBy(() -> writer.flag("a", true)).hasMessageContaining("a was declared twice");
        assertThatThrownBy(() -> writer.uint32("general.alignment", 64)).hasMessageContaining("alignment");
        assertThatThrownBy(() -> writer.tensor("t", GgmlType.F32, new long[]{1}, sink -> {
        })).hasMessageContaining("t was declared twice");
        assertThatThrownBy(() -> writer.tensor("x".repeat(64), GgmlType.F32, new long[]{1}, sink -> {
        })).hasMessageContaining("63");
        assertThatThrownBy(() -> writer.tensor("u", GgmlType.Q8_0, new long[]{31}, sink -> {
        })).hasMessageContaining("31");
    }
}
