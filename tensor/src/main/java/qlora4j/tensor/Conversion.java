package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * Conversion between the computing types F64, F32, BF16 and F16 in bulk: what {@link DType#get} and {@link DType#set}
 * give element by element, in loops over arrays that the JIT turns into vector code. A piece of the source is widened
 * or narrowed to float and from there to the target: exact as the element's path, because narrowing to 16 bits goes
 * through float there too, and F64 to F64 is a plain copy. A NaN stays a NaN; its payload is not promised.
 */
final class Conversion {
    /** Elements converted at once: their arrays stay in the first-level cache. */
    private static final int PIECE = 2048;

    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfDouble DOUBLE = ValueLayout.JAVA_DOUBLE_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private final float[] floats = new float[PIECE];
    private final short[] shorts = new short[PIECE];
    private final double[] doubles = new double[PIECE];

    private Conversion() {
    }

    /** Whether elements of this type can be converted here. */
    static boolean handles(DType dtype) {
        return switch (dtype) {
            case F64, F32, BF16, F16 -> true;
            default -> false;
        };
    }

    /** Converts {@code n} elements; the memories must not overlap. */
    static void copy(DType sourceType, MemorySegment source, DType targetType, MemorySegment target, long n) {
        Conversion c = new Conversion();
        for (long at = 0; at < n; at += PIECE) {
            int count = (int) Math.min(PIECE, n - at);
            c.read(sourceType, source, at, c.floats, 0, count);
            c.write(targetType, target, at, count);
        }
    }

    /** The elements of {@code source} as floats. */
    static void toFloats(DType sourceType, MemorySegment source, float[] out) {
        Conversion c = new Conversion();
        for (int at = 0; at < out.length; at += PIECE) {
            c.read(sourceType, source, at, out, at, Math.min(PIECE, out.length - at));
        }
    }

    private void read(DType type, MemorySegment source, long at, float[] out, int to, int count) {
        switch (type) {
            case F64 -> {
                MemorySegment.copy(source, DOUBLE, at * Double.BYTES, doubles, 0, count);
                for (int i = 0; i < count; i++) {
                    out[to + i] = (float) doubles[i];
                }
            }
            case F32 -> MemorySegment.copy(source, FLOAT, at * Float.BYTES, out, to, count);
            case BF16 -> {
                MemorySegment.copy(source, SHORT, at * Short.BYTES, shorts, 0, count);
                for (int i = 0; i < count; i++) {
                    out[to + i] = DType.bf16ToFloat(shorts[i]);
                }
            }
            case F16 -> {
                MemorySegment.copy(source, SHORT, at * Short.BYTES, shorts, 0, count);
                for (int i = 0; i < count; i++) {
                    out[to + i] = Float.float16ToFloat(shorts[i]);
                }
            }
            default -> throw new IllegalArgumentException(type + " is not converted in bulk");
        }
    }

    private void write(DType type, MemorySegment target, long at, int count) {
        switch (type) {
            case F64 -> {
                for (int i = 0; i < count; i++) {
                    doubles[i] = floats[i];
                }
                MemorySegment.copy(doubles, 0, target, DOUBLE, at * Double.BYTES, count);
            }
            case F32 -> MemorySegment.copy(floats, 0, target, FLOAT, at * Float.BYTES, count);
            case BF16 -> {
                for (int i = 0; i < count; i++) {
                    shorts[i] = DType.floatToBf16(floats[i]);
                }
                MemorySegment.copy(shorts, 0, target, SHORT, at * Short.BYTES, count);
            }
            case F16 -> {
                for (int i = 0; i < count; i++) {
                    shorts[i] = Float.floatToFloat16(floats[i]);
                }
                MemorySegment.copy(shorts, 0, target, SHORT, at * Short.BYTES, count);
            }
            default -> throw new IllegalArgumentException(type + " is not converted in bulk");
        }
    }
}
