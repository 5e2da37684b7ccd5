package qlora4j.blockwise;

import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Tensor;

/** Runs of elements between tensors of any computing type, F64 included, and float arrays; unaligned layouts. */
final class Elements {
    static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    static final ValueLayout.OfByte BYTE = ValueLayout.JAVA_BYTE;

    private Elements() {
    }

    /** Reads {@code n} elements of a tensor from {@code from}, narrowed to float. */
    static void load(Tensor source, long from, int n, float[] target, int at) {
        if (Floats.supports(source.dtype())) {
            Floats.load(source, from, n, target, at);
            return;
        }
        for (int i = 0; i < n; i++) {
            target[at + i] = (float) source.get(from + i);
        }
    }

    /** Writes {@code n} floats to a tensor from element {@code from} on, rounded to its type. */
    static void store(float[] source, int at, int n, Tensor target, long from) {
        if (Floats.supports(target.dtype())) {
            Floats.store(source, at, n, target, from);
            return;
        }
        for (int i = 0; i < n; i++) {
            target.set(from + i, source[at + i]);
        }
    }

    /** Rounds floats to the values of a 16-bit type, in place; for other types nothing. */
    static void round(DType compute, float[] values, int at, int n) {
        switch (compute) {
            case BF16 -> {
                for (int i = at; i < at + n; i++) {
                    values[i] = DType.bf16ToFloat(DType.floatToBf16(values[i]));
                }
            }
            case F16 -> {
                for (int i = at; i < at + n; i++) {
                    values[i] = Float.float16ToFloat(Float.floatToFloat16(values[i]));
                }
            }
            default -> {
            }
        }
    }
}
