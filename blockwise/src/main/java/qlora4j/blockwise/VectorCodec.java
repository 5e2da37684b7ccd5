package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.ByteVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.LongVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShuffle;
import qlora4j.nf4.Absmax;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;

/** One codebook in vectors: the largest magnitude of a block, its codes, and the values of codes. */
final class VectorCodec {
    private static final int L = Lanes.L;
    private static final int MAGNITUDE = 0x7fff_ffff;
    private static final int SIGN_BIT = 8;
    /** A bfloat16 is the upper half of a float. */
    private static final int BF16_SHIFT = 16;
    /** Just less than half of its last bit. */
    private static final int BF16_HALF = 0x7fff;

    /** Where element 0, 1, 2 ... of eight lies in a little-endian word of four pairs, the first of a pair high. */
    private static final int[] SHIFTS = {4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24};

    private static final IntVector POSITIONS = IntVector.fromArray(Lanes.I, SHIFTS, 0);
    private static final VectorShuffle<Integer> BY_1 = exchange(1), BY_2 = exchange(2), BY_4 = exchange(4);

    private final Codebook codebook;
    /** The bits of the thresholds, ascending, infinity where there are fewer. */
    private final int[] thresholdBits;
    private final int[] codesByRank;
    /** The bits of the 16 values: integer vectors are looked up by integer indices. */
    private final int[] valueBits;
    private final VectorThresholds cells;

    VectorCodec(Codebook codebook) {
        this.codebook = codebook;
        float[] thresholds = codebook.thresholds();
        this.thresholdBits = new int[Codebook.SIZE];
        this.codesByRank = new int[Codebook.SIZE];
        this.valueBits = new int[Codebook.SIZE];
        this.cells = new VectorThresholds(thresholds);
        for (int i = 0; i < Codebook.SIZE; i++) {
            codesByRank[i] = (int) (codebook.codesByRank() >>> (4 * i)) & 0xf;
            valueBits[i] = Float.floatToRawIntBits(codebook.value(i));
            thresholdBits[i] = Float
                    .floatToRawIntBits(i < thresholds.length ? thresholds[i] : Float.POSITIVE_INFINITY);
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

    /** The largest magnitude of {@code x[from .. from + n)}. */
    static float absmax(float[] x, int from, int n) {
        IntVector most = IntVector.zero(Lanes.I);
        int i = from;
        int end = from + n;
        for (; i <= end - L; i += L) {
            most = most.max(FloatVector.fromArray(Lanes.F, x, i).reinterpretAsInts().and(MAGNITUDE));
        }
        int bits = most.reduceLanes(VectorOperators.MAX);
        for (; i < end; i++) {
            bits = Math.max(bits, Float.floatToRawIntBits(x[i]) & MAGNITUDE);
        }
        return Absmax.ofBits(bits);
    }

    /** Divides {@code x[from .. from + n)} by its constant, in place; see {@link Absmax#normalize}. */
    static void normalize(float[] x, int from, int n, float absmax) {
        int i = from;
        int end = from + n;
        if (!Absmax.isTiny(absmax)) {
            float reciprocal = Absmax.reciprocal(absmax);
            for (; i <= end - L; i += L) {
                FloatVector.fromArray(Lanes.F, x, i).mul(reciprocal).intoArray(x, i);
            }
        }
        for (; i < end; i++) {
            x[i] = Absmax.normalize(x[i], absmax);
        }
    }

    /**
     * Writes the codes, see {@link Codebook#code}, of consecutive blocks of numbers times their blocks' factors: in pairs
     * from byte {@code offset} on; an odd tail's low nibble is the code of 0.
     *
     * @param blocksize a power of two, at least L
     * @param finite whether all products are finite; then {@link VectorThresholds} find the ranks, if lanes are wide enough
     */
    void encode(float[] x, int n, float[] factors, int blocksize, boolean finite, MemorySegment packed, long offset) {
        int whole = finite && L >= 8
                ? encodeByCell(x, n, factors, blocksize, packed, offset)
                : encodeByHalving(x, n, factors, blocksize, packed, offset);
        int shift = Integer.numberOfTrailingZeros(blocksize);
        for (int i = whole; i < n; i += 2) {
            packed.set(Elements.BYTE, offset + i / 2, Nibbles.pack(codebook.code(x[i] * factors[i >>> shift]),
                    i + 1 < n ? codebook.code(x[i + 1] * factors[i + 1 >>> shift]) : codebook.zeroCode()));
        }
    }

    /** All whole vectors of {@link #encode}; how many elements those are. */
    private int encodeByCell(float[] x, int n, float[] factors, int blocksize, MemorySegment packed, long offset) {
        IntVector c0 = table(codesByRank, 0), c1 = table(codesByRank, 1);
        IntVector t0 = table(cells.threshold, 0), t1 = table(cells.threshold, 1);
        IntVector t2 = table(cells.threshold, 2), t3 = table(cells.threshold, 3);
        IntVector b0 = table(cells.below, 0), b1 = table(cells.below, 1);
        IntVector b2 = table(cells.below, 2), b3 = table(cells.below, 3);
        boolean signMagnitude = codebook.signMagnitude();
        int shift = Integer.numberOfTrailingZeros(blocksize);
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector v = FloatVector.fromArray(Lanes.F, x, i).mul(factors[i >>> shift]);
            FloatVector compared = signMagnitude ? v.abs() : v;
            IntVector cell = VectorThresholds.of(compared);
            FloatVector threshold = VectorThresholds.lookup(cell, t0, t1, t2, t3).reinterpretAsFloats();
            IntVector code = VectorThresholds.lookup(cell, b0, b1, b2, b3).add(1,
                    compared.compare(VectorOperators.GT, threshold).cast(Lanes.I));
            if (signMagnitude) {
                code = withSign(lookup(code, c0, c1, c0, c1), v);
            }
            pack(code, packed, offset + i / 2);
        }
        return i;
    }

    /** The same for any numbers and any width. */
    private int encodeByHalving(float[] x, int n, float[] factors, int blocksize, MemorySegment packed, long offset) {
        IntVector c0 = table(codesByRank, 0), c1 = table(codesByRank, 1);
        IntVector c2 = table(codesByRank, 2), c3 = table(codesByRank, 3);
        IntVector t0 = table(thresholdBits, 0), t1 = table(thresholdBits, 1);
        IntVector t2 = table(thresholdBits, 2), t3 = table(thresholdBits, 3);
        boolean signMagnitude = codebook.signMagnitude();
        int shift = Integer.numberOfTrailingZeros(blocksize);
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector v = FloatVector.fromArray(Lanes.F, x, i).mul(factors[i >>> shift]);
            IntVector code = lookup(rank(signMagnitude ? v.abs() : v, t0, t1, t2, t3), c0, c1, c2, c3);
            pack(signMagnitude ? withSign(code, v) : code, packed, offset + i / 2);
        }
        return i;
    }

    private static IntVector withSign(IntVector code, FloatVector v) {
        return code.lanewise(VectorOperators.OR, SIGN_BIT, v.compare(VectorOperators.LT, 0f).cast(Lanes.I));
    }

    /** The number of thresholds that each lane strictly exceeds, by halving; 0 for NaN. */
    private static IntVector rank(FloatVector x, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
        IntVector rank = IntVector.zero(Lanes.I);
        for (int step = Codebook.SIZE / 2; step > 0; step /= 2) {
            FloatVector threshold = lookup(rank.add(step - 1), t0, t1, t2, t3).reinterpretAsFloats();
            rank = rank.add(step, x.compare(VectorOperators.GT, threshold).cast(Lanes.I));
        }
        return rank;
    }

    /** Writes {@code L} codes, half a byte each: the pairs of codes are joined, then their bytes brought together. */
    private static void pack(IntVector codes, MemorySegment packed, long offset) {
        if (L == 16) {
            LongVector pairs = codes.reinterpretAsLongs();
            pairs = pairs.lanewise(VectorOperators.LSHL, 4).or(pairs.lanewise(VectorOperators.LSHR, Integer.SIZE));
            ((ByteVector) pairs.convertShape(VectorOperators.L2B, ByteVector.SPECIES_64, 0)).intoMemorySegment(packed,
                    offset, ByteOrder.LITTLE_ENDIAN);
            return;
        }
        IntVector word = codes.lanewise(VectorOperators.LSHL, POSITIONS);
        word = word.or(word.rearrange(BY_1));
        word = word.or(word.rearrange(BY_2));
        if (L == 4) {
            packed.set(Elements.SHORT, offset, (short) word.lane(0));
        } else {
            packed.set(Elements.INT, offset, word.or(word.rearrange(BY_4)).lane(0));
        }
    }

    private static VectorShuffle<Integer> exchange(int h) {
        return VectorShuffle.fromOp(Lanes.I, lane -> (lane ^ h) % L);
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

    private static IntVector table(int[] entries, int quarter) {
        return IntVector.fromArray(Lanes.I, entries, quarter * L % entries.length);
    }

    /** The values of the codes in the low four bits of each lane; what stands above is ignored. */
    static FloatVector values(IntVector codes, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
        return lookup(codes, t0, t1, t2, t3).reinterpretAsFloats();
    }

    /** Selecting wraps indices at the tables' length, so higher bits need no mask. */
    private static IntVector lookup(IntVector indices, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
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
