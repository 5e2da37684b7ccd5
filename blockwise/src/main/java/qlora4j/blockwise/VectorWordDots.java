package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import qlora4j.tensor.Lanes;

/**
 * The inner loops of {@link VectorFewRows}: {@link #SHARED} streams of words, each of eight codes, times a row of x in
 * the order in which they have its elements.
 */
final class VectorWordDots {
    /** Codes of a word. */
    static final int WORD = 8;
    /** Streams that share a pass over x. */
    static final int SHARED = 4;
    private static final int L = Lanes.L;
    /** The lanes of a unit's first row in its middle vector. */
    private static final VectorMask<Float> FIRST_HALF = Lanes.F.indexInRange(0, L / 2);

    private VectorWordDots() {
    }

    /**
     * A row of x in the order in which {@link #dots} reads it: for each vector of words, of which the first is
     * {@code t}, and each nibble q of a little-endian word, which holds element q ^ 1 of its eight,
     * {@code x[8 (t + lane) + (q ^ 1)]}. The last vector begins L words before the end, and x is zero in its lanes that
     * the vector before has counted.
     */
    static void order(float[] row, int words, float[] ordered, int at) {
        for (int t = 0, to = at; t < words; t += L, to += WORD * L) {
            int first = Math.min(t, words - L);
            for (int lane = 0; lane < L; lane++) {
                word(row, first + lane, ordered, to + lane);
            }
            for (int q = 0; q < WORD; q++) {
                Arrays.fill(ordered, to + q * L, to + q * L + t - first, 0);
            }
        }
    }

    /** The same for a unit of two rows: x twice, one after the other. */
    static void orderPair(float[] row, int words, float[] ordered, int at) {
        for (int t = 0, to = at; t < 2 * words; t += L, to += WORD * L) {
            for (int lane = 0; lane < L; lane++) {
                word(row, t + lane < words ? t + lane : t + lane - words, ordered, to + lane);
            }
        }
    }

    private static void word(float[] row, int word, float[] ordered, int to) {
        for (int q = 0; q < WORD; q++) {
            ordered[to + q * L] = row[WORD * word + (q ^ 1)];
        }
    }

    /**
     * {@link #SHARED} units of words, {@code distance} bytes from one to the next, times one row of x: a sum for each lane.
     * In the middle of a unit of two rows a vector has words of both: what its halves add up to goes to one row each.
     *
     * @param from where the first unit begins, in bytes
     * @param words of a unit
     * @param unit rows of a unit, 1 or 2
     * @param scaleAt where the first unit's constants are; those of the next {@code scaleRow} further
     * @param blockShift log2 of a block's words
     * @param x where the ordered row begins
     * @param to where the first unit's sums go; those of the next {@code step} further
     */
    static void dots(VectorCodec codec, MemorySegment packed, long from, long distance, int words, int unit,
            float[] scales, int scaleAt, int scaleRow, int blockShift, float[] xs, int x, float[] lanes, int to,
            int step) {
        if (L == 16) {
            wide(codec, packed, from, distance, words, unit, scales, scaleAt, scaleRow, blockShift, xs, x, lanes, to,
                    step);
        } else {
            narrow(codec, packed, from, distance, words, unit, scales, scaleAt, scaleRow, blockShift, xs, x, lanes,
                    to, step);
        }
    }

    /**
     * Where a vector is the whole codebook. The nibbles stand one by one, up to 1.3 times as fast as in a loop; the Vector
     * API is called without helpers of our own, which the compiler would not inline into so large a method: so what both
     * methods do with the constants is written twice.
     */
    private static void wide(VectorCodec codec, MemorySegment packed, long from, long distance, int words, int unit,
            float[] scales, int scaleAt, int scaleRow, int blockShift, float[] xs, int x, float[] lanes, int to,
            int step) {
        IntVector table = codec.table(0);
        int middle = unit == 2 ? words / 2 - L / 2 : words;
        IntVector spread = Lanes.iota().lanewise(VectorOperators.LSHR, blockShift);
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        for (int i = 0, p = x; i < words; i += L, p += WORD * L) {
            int t = Math.min(i, words - L);
            long at = from + (long) t * Integer.BYTES;
            IntVector w0 = IntVector.fromMemorySegment(Lanes.I, packed, at, ByteOrder.LITTLE_ENDIAN);
            IntVector w1 = IntVector.fromMemorySegment(Lanes.I, packed, at + distance, ByteOrder.LITTLE_ENDIAN);
            IntVector w2 = IntVector.fromMemorySegment(Lanes.I, packed, at + 2 * distance, ByteOrder.LITTLE_ENDIAN);
            IntVector w3 = IntVector.fromMemorySegment(Lanes.I, packed, at + 3 * distance, ByteOrder.LITTLE_ENDIAN);
            FloatVector v = FloatVector.fromArray(Lanes.F, xs, p);
            FloatVector d0 = w0.selectFrom(table).reinterpretAsFloats().mul(v);
            FloatVector d1 = w1.selectFrom(table).reinterpretAsFloats().mul(v);
            FloatVector d2 = w2.selectFrom(table).reinterpretAsFloats().mul(v);
            FloatVector d3 = w3.selectFrom(table).reinterpretAsFloats().mul(v);
            v = FloatVector.fromArray(Lanes.F, xs, p + L);
            d0 = w0.lanewise(VectorOperators.LSHR, 4).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 4).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 4).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 4).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 2 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 8).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 8).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 8).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 8).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 3 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 12).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 12).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 12).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 12).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 4 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 16).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 16).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 16).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 16).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 5 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 20).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 20).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 20).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 20).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 6 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 24).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 24).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 24).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 24).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            v = FloatVector.fromArray(Lanes.F, xs, p + 7 * L);
            d0 = w0.lanewise(VectorOperators.LSHR, 28).selectFrom(table).reinterpretAsFloats().fma(v, d0);
            d1 = w1.lanewise(VectorOperators.LSHR, 28).selectFrom(table).reinterpretAsFloats().fma(v, d1);
            d2 = w2.lanewise(VectorOperators.LSHR, 28).selectFrom(table).reinterpretAsFloats().fma(v, d2);
            d3 = w3.lanewise(VectorOperators.LSHR, 28).selectFrom(table).reinterpretAsFloats().fma(v, d3);
            // In each lane, the constant of its word's block.
            int block = scaleAt + (t >>> blockShift);
            IntVector c0 = FloatVector.fromArray(Lanes.F, scales, block).reinterpretAsInts();
            IntVector c1 = FloatVector.fromArray(Lanes.F, scales, scaleRow + block).reinterpretAsInts();
            IntVector c2 = FloatVector.fromArray(Lanes.F, scales, 2 * scaleRow + block).reinterpretAsInts();
            IntVector c3 = FloatVector.fromArray(Lanes.F, scales, 3 * scaleRow + block).reinterpretAsInts();
            if (i == middle) {
                d0 = d0.mul(spread.selectFrom(c0).reinterpretAsFloats());
                d1 = d1.mul(spread.selectFrom(c1).reinterpretAsFloats());
                d2 = d2.mul(spread.selectFrom(c2).reinterpretAsFloats());
                d3 = d3.mul(spread.selectFrom(c3).reinterpretAsFloats());
                s0.add(d0, FIRST_HALF).intoArray(lanes, to);
                s1.add(d1, FIRST_HALF).intoArray(lanes, to + step);
                s2.add(d2, FIRST_HALF).intoArray(lanes, to + 2 * step);
                s3.add(d3, FIRST_HALF).intoArray(lanes, to + 3 * step);
                s0 = d0.blend(0, FIRST_HALF);
                s1 = d1.blend(0, FIRST_HALF);
                s2 = d2.blend(0, FIRST_HALF);
                s3 = d3.blend(0, FIRST_HALF);
                to += L;
            } else {
                s0 = d0.fma(spread.selectFrom(c0).reinterpretAsFloats(), s0);
                s1 = d1.fma(spread.selectFrom(c1).reinterpretAsFloats(), s1);
                s2 = d2.fma(spread.selectFrom(c2).reinterpretAsFloats(), s2);
                s3 = d3.fma(spread.selectFrom(c3).reinterpretAsFloats(), s3);
            }
        }
        s0.intoArray(lanes, to);
        s1.intoArray(lanes, to + step);
        s2.intoArray(lanes, to + 2 * step);
        s3.intoArray(lanes, to + 3 * step);
    }

    /**
     * The same where a lookup is several instructions. The loops are small, for the compiler to inline all of them.
     */
    private static void narrow(VectorCodec codec, MemorySegment packed, long from, long distance, int words, int unit,
            float[] scales, int scaleAt, int scaleRow, int blockShift, float[] xs, int x, float[] lanes, int to,
            int step) {
        int middle = unit == 2 ? words / 2 - L / 2 : words;
        IntVector spread = Lanes.iota().lanewise(VectorOperators.LSHR, blockShift);
        IntVector t0 = codec.table(0), t1 = codec.table(1), t2 = codec.table(2), t3 = codec.table(3);
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        int p = x;
        for (int i = 0; i < words; i += L) {
            int t = Math.min(i, words - L);
            long at = from + (long) t * Integer.BYTES;
            IntVector w0 = words(packed, at);
            IntVector w1 = words(packed, at + distance);
            IntVector w2 = words(packed, at + 2 * distance);
            IntVector w3 = words(packed, at + 3 * distance);
            FloatVector d0 = FloatVector.zero(Lanes.F), d1 = d0, d2 = d0, d3 = d0;
            for (int q = 0; q < WORD; q++, p += L) {
                FloatVector v = FloatVector.fromArray(Lanes.F, xs, p);
                d0 = VectorCodec.values(w0, t0, t1, t2, t3).fma(v, d0);
                d1 = VectorCodec.values(w1, t0, t1, t2, t3).fma(v, d1);
                d2 = VectorCodec.values(w2, t0, t1, t2, t3).fma(v, d2);
                d3 = VectorCodec.values(w3, t0, t1, t2, t3).fma(v, d3);
                w0 = VectorCodec.next(w0);
                w1 = VectorCodec.next(w1);
                w2 = VectorCodec.next(w2);
                w3 = VectorCodec.next(w3);
            }
            // In each lane, the constant of its word's block. Not by a method: at 128 bits it would be one call more than
            // the compiler inlines here.
            int block = scaleAt + (t >>> blockShift);
            IntVector c0 = FloatVector.fromArray(Lanes.F, scales, block).reinterpretAsInts();
            IntVector c1 = FloatVector.fromArray(Lanes.F, scales, scaleRow + block).reinterpretAsInts();
            IntVector c2 = FloatVector.fromArray(Lanes.F, scales, 2 * scaleRow + block).reinterpretAsInts();
            IntVector c3 = FloatVector.fromArray(Lanes.F, scales, 3 * scaleRow + block).reinterpretAsInts();
            d0 = d0.mul(spread.selectFrom(c0).reinterpretAsFloats());
            d1 = d1.mul(spread.selectFrom(c1).reinterpretAsFloats());
            d2 = d2.mul(spread.selectFrom(c2).reinterpretAsFloats());
            d3 = d3.mul(spread.selectFrom(c3).reinterpretAsFloats());
            if (i == middle) {
                s0.add(d0, FIRST_HALF).intoArray(lanes, to);
                s1.add(d1, FIRST_HALF).intoArray(lanes, to + step);
                s2.add(d2, FIRST_HALF).intoArray(lanes, to + 2 * step);
                s3.add(d3, FIRST_HALF).intoArray(lanes, to + 3 * step);
                s0 = d0.blend(0, FIRST_HALF);
                s1 = d1.blend(0, FIRST_HALF);
                s2 = d2.blend(0, FIRST_HALF);
                s3 = d3.blend(0, FIRST_HALF);
                to += L;
            } else {
                s0 = s0.add(d0);
                s1 = s1.add(d1);
                s2 = s2.add(d2);
                s3 = s3.add(d3);
            }
        }
        s0.intoArray(lanes, to);
        s1.intoArray(lanes, to + step);
        s2.intoArray(lanes, to + 2 * step);
        s3.intoArray(lanes, to + 3 * step);
    }

    private static IntVector words(MemorySegment packed, long at) {
        return IntVector.fromMemorySegment(Lanes.I, packed, at, ByteOrder.LITTLE_ENDIAN);
    }
}
