package qlora4j.safetensors;

import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
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
        Held held = new Held(mapping, info);
        try {
            return allocator.wrapForeignAllocation(held).writerIndex(info.bytes());
        } catch (RuntimeException | Error e) {
            held.release0();
            throw e;
        }
    }

    /** A tensor's bytes, which keep the mapping until Arrow releases them (or fails to take them) for the first time. */
    private static final class Held extends ForeignAllocation {
        private final Mapping mapping;
        private final AtomicBoolean released = new AtomicBoolean();

        Held(Mapping mapping, TensorInfo info) {
            super(info.bytes(), mapping.hold().address() + info.offset());
            this.mapping = mapping;
        }

        @Override
        protected void release0() {
            if (!released.getAndSet(true)) {
                mapping.release();
            }
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
