package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * Element types. The first group can be computed with; the rest can be stored, loaded and inspected.
 *
 * <p>All multi-byte elements are little-endian in memory and on disk, as in safetensors. {@link #get} and {@link #set}
 * read and write one element as a double; {@code set} rounds to nearest, ties to even; {@link Tensor#copyFrom}
 * converts in bulk to the same bits. Narrowing to a 16-bit or 8-bit float goes through float first.
 */
public enum DType {
    F64(64), F32(32), BF16(16), F16(16), //
    F8_E4M3(8), F8_E5M2(8), F8_E8M0(8), F8_E4M3FNUZ(8), F8_E5M2FNUZ(8), F6_E2M3(6), F6_E3M2(6), F4(4), //
    I64(64), I32(32), I16(16), I8(8), U64(64), U32(32), U16(16), U8(8), BOOL(8), C64(64);

    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfDouble DOUBLE = ValueLayout.JAVA_DOUBLE_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private final int bits;

    DType(int bits) {
        this.bits = bits;
    }

    /** Bits of one element. */
    public int bits() {
        return bits;
    }

    /** Bytes of one element; an error for the types smaller than a byte. */
    public int bytes() {
        if (bits % 8 != 0) {
            throw new IllegalArgumentException(this + " elements are not whole bytes");
        }
        return bits / 8;
    }

    /** Bytes of {@code elements} elements, which must fill whole bytes. */
    public long bytes(long elements) {
        long total = Math.multiplyExact(elements, (long) bits);
        if (total % 8 != 0) {
            throw new IllegalArgumentException(elements + " elements of " + this + " do not fill whole bytes");
        }
        return total / 8;
    }

    /** Whether this is a floating-point type. */
    public boolean isFloat() {
        return ordinal() <= F4.ordinal();
    }

    /** Element {@code i} of {@code data} as a double (bool: 0 or 1). */
    public double get(MemorySegment data, long i) {
        return switch (this) {
            case F64 -> data.get(DOUBLE, i * 8);
            case F32 -> data.get(FLOAT, i * 4);
            case BF16 -> bf16ToFloat(data.get(SHORT, i * 2));
            case F16 -> Float.float16ToFloat(data.get(SHORT, i * 2));
            case F8_E4M3, F8_E5M2, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ -> Float8.toFloat(this,
                    data.get(ValueLayout.JAVA_BYTE, i));
            case I64 -> data.get(LONG, i * 8);
            case I32 -> data.get(INT, i * 4);
            case I16 -> data.get(SHORT, i * 2);
            case I8 -> data.get(ValueLayout.JAVA_BYTE, i);
            case U64 -> unsignedToDouble(data.get(LONG, i * 8));
            case U32 -> Integer.toUnsignedLong(data.get(INT, i * 4));
            case U16 -> Short.toUnsignedInt(data.get(SHORT, i * 2));
            case U8, BOOL -> Byte.toUnsignedInt(data.get(ValueLayout.JAVA_BYTE, i));
            case F6_E2M3, F6_E3M2, F4, C64 -> throw notNumeric();
        };
    }

    /** Writes {@code value}, rounded to this type, as element {@code i} of {@code data}. */
    public void set(MemorySegment data, long i, double value) {
        switch (this) {
            case F64 -> data.set(DOUBLE, i * 8, value);
            case F32 -> data.set(FLOAT, i * 4, (float) value);
            case BF16 -> data.set(SHORT, i * 2, floatToBf16((float) value));
            case F16 -> data.set(SHORT, i * 2, Float.floatToFloat16((float) value));
            case I64 -> data.set(LONG, i * 8, (long) value);
            case I32 -> data.set(INT, i * 4, (int) value);
            case I16 -> data.set(SHORT, i * 2, (short) value);
            case I8 -> data.set(ValueLayout.JAVA_BYTE, i, (byte) value);
            case U8, BOOL -> data.set(ValueLayout.JAVA_BYTE, i, (byte) (int) value);
            default -> throw new IllegalArgumentException("elements of " + this + " cannot be written");
        }
    }

    private IllegalArgumentException notNumeric() {
        return new IllegalArgumentException("elements of " + this + " cannot be read as numbers");
    }

    private static double unsignedToDouble(long v) {
        return v >= 0 ? v : (double) (v >>> 1 | v & 1) * 2.0;
    }

    /** The float with the bits of {@code bf16} as its upper half: exact. */
    public static float bf16ToFloat(short bf16) {
        return Float.intBitsToFloat(bf16 << 16);
    }

    /** The nearest bfloat16, ties to even; a NaN stays a (quiet) NaN. */
    public static short floatToBf16(float value) {
        int bits = Float.floatToRawIntBits(value);
        if (value != value) {
            return (short) (bits >>> 16 | 0x40);
        }
        return (short) (bits + 0x7fff + (bits >>> 16 & 1) >>> 16);
    }
}
