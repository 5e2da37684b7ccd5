package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;

/** One codebook in vectors: the values of codes. Codes are found by {@link VectorEncoder}. */
final class VectorCodec {
    private static final int L = Lanes.L;
    /** A bfloat16 is the upper half of a float. */
    private static final int BF16_SHIFT = 16;
    /** Just less than half of its last bit. */
    private static final int BF16_HALF = 0x7fff;

    /** Where element 0, 1, 2 ... of eight lies in a little-endian word of four pairs, the first of a pair high. */
    private static final int[] SHIFTS = {4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24};

    static final IntVector POSITIONS = IntVector.fromArray(Lanes.I, SHIFTS, 0);

    private final Codebook codebook;
    /** The bits of the 16 values: integer vectors are looked up by integer indices. */
    private final int[] valueBits;

    VectorCodec(Codebook codebook) {
        this.codebook = codebook;
        this.valueBits = new int[Codebook.SIZE];
        for (int i = 0; i < Codebook.SIZE; i++) {
            valueBits[i] = Float.floatToRawIntBits(codebook.value(i));
        }
    }

    /** One of each type, by its ordinal. */
    static VectorCodec[] ofTypes() {
        VectorCodec[] codecs = new VectorCodec[QuantType.values().length];
        for (QuantType type : QuantType.values()) {
            codecs[type.ordinal()] = new VectorCodec(type.codebook());
        }
        return codecs;
    }

    /**
     * Dequantizes elements of one block.
     *
     * @param packed the codes
     * @param first the first element, even
     * @param n how many
     * @param scale the block's constant
     */
    void decode(MemorySegment packed, long first, int n, float scale, float[] target, int at) {
        IntVector t0 = table(0), t1 = table(1), t2 = table(2), t3 = table(3);
        int i = 0;
        for (; i <= n - L; i += L) {
            values(nibbles(packed, (first + i) / 2), t0, t1, t2, t3).mul(scale).intoArray(target, at + i);
        }
        for (; i < n; i++) {
            target[at + i] = value(packed, first + i) * scale;
        }
    }

    /**
     * Dequantizes consecutive blocks in one loop.
     *
     * @param first the first element, with which a block begins
     * @param n how many; the last block may be shorter
     * @param scales the blocks' constants
     * @param blocksize a power of two, at least 2·L
     */
    void decode(MemorySegment packed, long first, int n, float[] scales, int blocksize, float[] target, int at) {
        IntVector t0 = table(0), t1 = table(1), t2 = table(2), t3 = table(3);
        int shift = Integer.numberOfTrailingZeros(blocksize / 2);
        long from = first / 2;
        int whole = n / L * (L / 2);
        for (int b = 0; b < whole; b += L / 2) {
            values(nibbles(packed, from + b), t0, t1, t2, t3).mul(scales[b >>> shift]).intoArray(target, at + 2 * b);
        }
        for (int i = 2 * whole; i < n; i++) {
            target[at + i] = value(packed, first + i) * scales[i / blocksize];
        }
    }

    /** The codebook's value of one element. */
    float value(MemorySegment packed, long element) {
        return codebook.value(Nibbles.code(packed.get(Elements.BYTE, element / 2), element));
    }

    /** The codes of {@code L} elements whose pairs start at byte {@code offset}, in the low four bits. */
    static IntVector nibbles(MemorySegment packed, long offset) {
        IntVector words = switch (L) {
            case 4 -> IntVector.broadcast(Lanes.I, packed.get(Elements.SHORT, offset));
            case 8 -> IntVector.broadcast(Lanes.I, packed.get(Elements.INT, offset));
            default -> IntVector.broadcast(Lanes.I, packed.get(Elements.INT, offset)).blend(
                    packed.get(Elements.INT, offset + 4), Lanes.I.indexInRange(0, 8).not());
        };
        return words.lanewise(VectorOperators.LSHR, POSITIONS);
    }

    /** Nibble {@code q} of each word, 0 the lowest, in the low four bits. */
    static IntVector nibble(IntVector words, int q) {
        return words.lanewise(VectorOperators.LSHR, 4 * q);
    }

    /** Each word shifted on by a nibble. */
    static IntVector next(IntVector words) {
        return words.lanewise(VectorOperators.LSHR, 4);
    }

    /** Rounds floats to the values of a 16-bit type, in place; for other types nothing. */
    static void round(DType compute, float[] values, int at, int n) {
        int i = 0;
        if (compute == DType.BF16) {
            for (; i <= n - L; i += L) {
                roundToBf16(FloatVector.fromArray(Lanes.F, values, at + i)).intoArray(values, at + i);
            }
        }
        Elements.round(compute, values, at + i, n - i);
    }

    /** The nearest bfloat16, ties to even: a carry out of the lower half increments the upper one. */
    private static FloatVector roundToBf16(FloatVector v) {
        IntVector bits = v.reinterpretAsInts();
        IntVector odd = bits.lanewise(VectorOperators.LSHR, BF16_SHIFT).and(1);
        FloatVector rounded = bits.add(BF16_HALF).add(odd).and(-1 << BF16_SHIFT).reinterpretAsFloats();
        return rounded.blend(v, v.test(VectorOperators.IS_NAN));
    }

    /**
     * A quarter of the codebook's values as integers, to be looked up with {@link #values}; loaded once before a loop.
     * At 8 lanes quarters 0 and 1 are its halves, at 16 quarter 0 is all of it.
     */
    IntVector table(int quarter) {
        return table(valueBits, quarter);
    }

    static IntVector table(int[] entries, int quarter) {
        return IntVector.fromArray(Lanes.I, entries, quarter * L % entries.length);
    }

    /** The values of the codes in the low four bits of each lane; what stands above is ignored. */
    static FloatVector values(IntVector codes, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
        return lookup(codes, t0, t1, t2, t3).reinterpretAsFloats();
    }

    /** Selecting wraps indices at the tables' length, so higher bits need no mask. */
    static IntVector lookup(IntVector indices, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
        if (L == 16) {
            return indices.selectFrom(t0);
        }
        if (L == 8) {
            return indices.selectFrom(t0, t1);
        }
        return indices.selectFrom(t0, t1).blend(indices.selectFrom(t2, t3),
                indices.and(8).compare(VectorOperators.NE, 0));
    }
}
