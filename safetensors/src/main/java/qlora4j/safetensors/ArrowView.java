package qlora4j.safetensors;

import java.lang.foreign.MemorySegment;
import java.util.List;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.memory.ForeignAllocation;
import org.apache.arrow.vector.FieldVector;
import org.apache.arrow.vector.ipc.message.ArrowFieldNode;
import org.apache.arrow.vector.types.FloatingPointPrecision;
import org.apache.arrow.vector.types.pojo.ArrowType;
import org.apache.arrow.vector.types.pojo.Field;
import qlora4j.tensor.DType;

/** Mapped tensors as Arrow memory, without a copy. */
final class ArrowView {
    private ArrowView() {
    }

    static ArrowBuf buffer(Mapping mapping, TensorInfo info, BufferAllocator allocator) {
        if (info.bytes() == 0) {
            return allocator.getEmpty();
        }
        MemorySegment data = mapping.hold().asSlice(info.offset(), info.bytes());
        try {
            return allocator.wrapForeignAllocation(new ForeignAllocation(info.bytes(), data.address()) {
                @Override
                protected void release0() {
                    mapping.release();
                }
            }).writerIndex(info.bytes());
        } catch (RuntimeException | Error e) {
            mapping.release();
            throw e;
        }
    }

    static FieldVector vector(Mapping mapping, TensorInfo info, BufferAllocator allocator) {
        long elements = info.dtype().bits() < Byte.SIZE ? info.bytes() : info.elements();
        if (elements > Integer.MAX_VALUE) {
            throw new IllegalArgumentException(info + ": " + elements
                    + " elements are more than an Arrow vector holds; take it as an Arrow buffer");
        }
        FieldVector vector = Field.notNullable(info.name(), type(info.dtype())).createVector(allocator);
        try (ArrowBuf data = buffer(mapping, info, allocator)) {
            vector.loadFieldBuffers(new ArrowFieldNode(elements, 0), List.of(allocator.getEmpty(), data));
            return vector;
        } catch (RuntimeException | Error e) {
            vector.close();
            throw e;
        }
    }

    private static ArrowType type(DType dtype) {
        return switch (dtype) {
            case F64 -> new ArrowType.FloatingPoint(FloatingPointPrecision.DOUBLE);
            case F32 -> new ArrowType.FloatingPoint(FloatingPointPrecision.SINGLE);
            case F16 -> new ArrowType.FloatingPoint(FloatingPointPrecision.HALF);
            case I64, I32, I16, I8 -> new ArrowType.Int(dtype.bits(), true);
            case U64, U32, U16, U8, BF16 -> new ArrowType.Int(dtype.bits(), false);
            case F8_E4M3, F8_E5M2, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, F6_E2M3, F6_E3M2, F4, BOOL -> new ArrowType.Int(
                    Byte.SIZE, false);
            case C64 -> new ArrowType.FixedSizeBinary(dtype.bytes());
        };
    }
}
