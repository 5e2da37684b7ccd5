package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.FixedSizeBinaryVector;
import org.apache.arrow.vector.Float2Vector;
import org.apache.arrow.vector.Float4Vector;
import org.apache.arrow.vector.UInt1Vector;
import org.apache.arrow.vector.UInt2Vector;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The same bytes as Arrow buffers and vectors: where they lie, what they read as, and when they are released. */
class ArrowViewTest {
    @TempDir
    Path directory;
    private RootAllocator allocator;
    private Safetensors file;

    @BeforeEach
    void open() throws IOException {
        allocator = new RootAllocator();
        SafetensorsWriter writer = new SafetensorsWriter().add("none", Tensor.zeros(DType.F32, 0));
        for (DType d : DType.values()) {
            byte[] bytes = new byte[d.bits()];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) (i * 37 + d.ordinal());
            }
            writer.add(d.name(), d, MemorySegment.ofArray(bytes), 2, 4);
        }
        Path path = directory.resolve("arrow.safetensors");
        writer.write(path);
        file = Safetensors.open(path);
    }

    @AfterEach
    void close() {
        file.close();
        // Fails when a buffer was not released.
        allocator.close();
    }

    @ParameterizedTest
    @EnumSource(DType.class)
    void buffersAndVectorsShareTheMappingsMemory(DType dtype) {
        MemorySegment segment = file.segment(dtype.name());
        try (ArrowBuf buffer = file.arrowBuffer(dtype.name(), allocator);
                FieldVector vector = file.arrowVector(dtype.name(), allocator)) {
            assertThat(buffer.memoryAddress()).isEqualTo(segment.address());
            assertThat(buffer.readableBytes()).isEqualTo(segment.byteSize());
            assertThat(vector.getDataBufferAddress()).isEqualTo(segment.address());
            assertThat(vector.getName()).isEqualTo(dtype.name());
            assertThat(vector.getNullCount()).isZero();
            assertThat(vector.getValueCount()).isEqualTo(dtype.bits() < 8 ? dtype.bits() : 8);
            for (int i = 0; i < segment.byteSize(); i++) {
                assertThat(buffer.getByte(i)).isEqualTo(segment.get(ValueLayout.JAVA_BYTE, i));
            }
        }
    }

    @Test
    void elementsReadAsTheyAre() {
        try (Float4Vector f32 = (Float4Vector) file.arrowVector("F32", allocator);
                Float2Vector f16 = (Float2Vector) file.arrowVector("F16", allocator);
                UInt2Vector bf16 = (UInt2Vector) file.arrowVector("BF16", allocator);
                UInt1Vector f8 = (UInt1Vector) file.arrowVector("F8_E4M3", allocator);
                FixedSizeBinaryVector c64 = (FixedSizeBinaryVector) file.arrowVector("C64", allocator)) {
            for (int i = 0; i < 8; i++) {
                assertThat((double) f32.get(i)).isEqualTo(file.tensor("F32").get(i));
                assertThat((double) f16.getValueAsFloat(i)).isEqualTo(file.tensor("F16").get(i));
                assertThat((double) DType.bf16ToFloat((short) bf16.get(i))).isEqualTo(file.tensor("BF16").get(i));
                assertThat(f8.get(i)).isEqualTo(file.segment("F8_E4M3").get(ValueLayout.JAVA_BYTE, i));
                assertThat(c64.get(i))
                        .isEqualTo(file.segment("C64").asSlice(8L * i, 8).toArray(ValueLayout.JAVA_BYTE));
            }
        }
    }

    @Test
    void zeroSizeTensors() {
        try (ArrowBuf buffer = file.arrowBuffer("none", allocator);
                FieldVector vector = file.arrowVector("none", allocator)) {
            assertThat(buffer.capacity()).isZero();
            assertThat(vector.getValueCount()).isZero();
        }
    }

    @Test
    void aBufferOutlivesItsFileAndReleasesIt() {
        MemorySegment segment = file.segment("U8");
        byte first = segment.get(ValueLayout.JAVA_BYTE, 0);
        try (ArrowBuf buffer = file.arrowBuffer("U8", allocator);
                FieldVector vector = file.arrowVector("U8", allocator)) {
            assertThat(allocator.getAllocatedMemory()).isGreaterThanOrEqualTo(segment.byteSize());
            file.close();
            assertThat(buffer.getByte(0)).isEqualTo(first);
            assertThat(((UInt1Vector) vector).get(0)).isEqualTo(first);
            assertThatThrownBy(() -> file.arrowBuffer("U8", allocator)).isInstanceOf(IllegalStateException.class);
            assertThat(segment.scope().isAlive()).isTrue();
        }
        assertThat(segment.scope().isAlive()).isFalse();
        assertThat(allocator.getAllocatedMemory()).isZero();
    }

    @Test
    void anAllocatorWithoutRoomLosesNothing() {
        MemorySegment segment = file.segment("F64");
        try (RootAllocator small = new RootAllocator(16)) {
            assertThatThrownBy(() -> file.arrowBuffer("F64", small)).isInstanceOf(RuntimeException.class);
            assertThatThrownBy(() -> file.arrowVector("F64", small)).isInstanceOf(RuntimeException.class);
        }
        assertThat(segment.scope().isAlive()).isTrue();
        file.close();
        assertThat(segment.scope().isAlive()).isFalse();
    }
}
