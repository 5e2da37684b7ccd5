package qlora4j.gguf;

import java.util.EnumSet;
import java.util.Set;
import qlora4j.tensor.DType;

/**
 * Element types of tensors (ggml.h, {@code ggml_type}): elements lie in blocks of a number of elements and of bytes. All
 * can be read and measured; {@link Dequantizer} knows the values of those in {@link #readable}.
 */
public enum GgmlType {
    F32(0, 1, 4), F16(1, 1, 2), Q4_0(2, 32, 18), Q4_1(3, 32, 20), Q5_0(6, 32, 22), Q5_1(7, 32, 24), //
    Q8_0(8, 32, 34), Q8_1(9, 32, 36), Q2_K(10, 256, 84), Q3_K(11, 256, 110), Q4_K(12, 256, 144), //
    Q5_K(13, 256, 176), Q6_K(14, 256, 210), Q8_K(15, 256, 292), IQ2_XXS(16, 256, 66), IQ2_XS(17, 256, 74), //
    IQ3_XXS(18, 256, 98), IQ1_S(19, 256, 50), IQ4_NL(20, 32, 18), IQ3_S(21, 256, 110), IQ2_S(22, 256, 82), //
    IQ4_XS(23, 256, 136), I8(24, 1, 1), I16(25, 1, 2), I32(26, 1, 4), I64(27, 1, 8), F64(28, 1, 8), //
    IQ1_M(29, 256, 56), BF16(30, 1, 2), TQ1_0(34, 256, 54), TQ2_0(35, 256, 66), MXFP4(39, 32, 17), NVFP4(40, 64, 36);

    private static final Set<GgmlType> READABLE = EnumSet.of(F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K,
            Q6_K);

    private final int code;
    private final int blockElements;
    private final int blockBytes;

    GgmlType(int code, int blockElements, int blockBytes) {
        this.code = code;
        this.blockElements = blockElements;
        this.blockBytes = blockBytes;
    }

    /** The type's number in a file. */
    public int code() {
        return code;
    }

    /** Elements of a block; rows are whole blocks. */
    public int blockElements() {
        return blockElements;
    }

    /** Bytes of a block. */
    public int blockBytes() {
        return blockBytes;
    }

    /**
     * Bytes of {@code elements} elements, which are whole blocks.
     *
     * @throws ArithmeticException if they pass a long
     */
    public long bytes(long elements) {
        return Math.multiplyExact(elements / blockElements, (long) blockBytes);
    }

    /** The types whose values can be read. */
    public static Set<GgmlType> readable() {
        return Set.copyOf(READABLE);
    }

    /** Whether the values of this type can be read. */
    public boolean isReadable() {
        return READABLE.contains(this);
    }

    /** The tensor type of the same elements, or null where there is none: for F32, F16 and BF16. */
    DType plain() {
        return switch (this) {
            case F32 -> DType.F32;
            case F16 -> DType.F16;
            case BF16 -> DType.BF16;
            default -> null;
        };
    }

    /** The type of a code, or null. */
    static GgmlType of(long code) {
        for (GgmlType type : values()) {
            if (type.code == code) {
                return type;
            }
        }
        return null;
    }
}
