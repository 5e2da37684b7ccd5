package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;

/** Runs of bfloat16 in memory as floats. A bfloat16 is the upper half of a float. */
final class VectorBf16 {
    private static final int L = Lanes.L;
    private static final VectorSpecies<Short> HALF = VectorSpecies.of(short.class,
            VectorShape.forBitSize(Lanes.BITS / 2));
    private static final int SHIFT = 16;
    /** Just less than half of the last bit that stays. */
    private static final int ALMOST_HALF = 0x7fff;
    private static final int QUIET = 0x0040_0000;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private VectorBf16() {
    }

    /** Reads {@code n} elements from a byte offset on. */
    static void load(MemorySegment d, long offset, int n, float[] out, int at) {
        int i = 0;
        for (; i <= n - L; i += L) {
            get(d, offset + 2L * i).intoArray(out, at + i);
        }
        for (; i < n; i++) {
            out[at + i] = DType.bf16ToFloat(d.get(SHORT, offset + 2L * i));
        }
    }

    /** As {@link Lanes#loadStrided}. */
    static void loadStrided(MemorySegment d, long offset, int n, float[] out, int at, int run, int stride) {
        for (int j = 0, to = at; j < n; j += run, to += stride) {
            for (int i = 0; i < run; i += L) {
                get(d, offset + 2L * (j + i)).intoArray(out, to + i);
            }
        }
    }

    /** Adds {@code n} elements from a byte offset on to {@code sum[at …]}. */
    static void add(MemorySegment d, long offset, int n, float[] sum, int at) {
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector.fromArray(Lanes.F, sum, at + i).add(get(d, offset + 2L * i)).intoArray(sum, at + i);
        }
        for (; i < n; i++) {
            sum[at + i] += DType.bf16ToFloat(d.get(SHORT, offset + 2L * i));
        }
    }

    /** Writes {@code n} floats, rounded to the nearest, ties to even; a NaN stays one. */
    static void store(float[] in, int at, int n, MemorySegment d, long offset) {
        int i = 0;
        for (; i <= n - L; i += L) {
            IntVector upper = rounded(FloatVector.fromArray(Lanes.F, in, at + i));
            ((ShortVector) upper.convertShape(VectorOperators.I2S, HALF, 0)).intoMemorySegment(d, offset + 2L * i,
                    ByteOrder.LITTLE_ENDIAN);
        }
        for (; i < n; i++) {
            d.set(SHORT, offset + 2L * i, DType.floatToBf16(in[at + i]));
        }
    }

    /** Rounds {@code n} floats {@code x[at …]} in place as {@link #store} does. */
    static void round(float[] x, int at, int n) {
        int i = at;
        for (; i <= at + n - L; i += L) {
            rounded(FloatVector.fromArray(Lanes.F, x, i)).lanewise(VectorOperators.LSHL, SHIFT).reinterpretAsFloats()
                    .intoArray(x, i);
        }
        for (; i < at + n; i++) {
            x[i] = DType.bf16ToFloat(DType.floatToBf16(x[i]));
        }
    }

    /** The bfloat16 of each lane in its lower half. */
    private static IntVector rounded(FloatVector v) {
        IntVector bits = v.reinterpretAsInts();
        // A carry out of the lower half increments the upper one.
        IntVector odd = bits.lanewise(VectorOperators.LSHR, SHIFT).and(1);
        return bits.add(ALMOST_HALF).add(odd).blend(bits.or(QUIET), v.test(VectorOperators.IS_NAN).cast(Lanes.I))
                .lanewise(VectorOperators.LSHR, SHIFT);
    }

    private static FloatVector get(MemorySegment d, long offset) {
        return ((IntVector) ShortVector.fromMemorySegment(HALF, d, offset, ByteOrder.LITTLE_ENDIAN)
                .convertShape(VectorOperators.ZERO_EXTEND_S2I, Lanes.I, 0)).lanewise(VectorOperators.LSHL, SHIFT)
                .reinterpretAsFloats();
    }
}
