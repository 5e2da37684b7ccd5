package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.ByteVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.LongVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;
import qlora4j.nf4.Absmax;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Tensor;

/**
 * Quantizes runs of whole blocks to 4 bits with one codebook: constants, then codes.
 *
 * <p>A run is read first, by a loop that does little else but find maxima: only in short loops does the processor keep as
 * many reads of memory under way as it can. The rest works on a copy in the first-level cache.
 */
final class VectorEncoder {
    /** The most elements of a run. */
    static final int RUN = QuantConfig.MAX_BLOCKSIZE;

    private static final int L = Lanes.L;
    private static final int MAGNITUDE = 0x7fff_ffff;
    private static final int SIGN_BIT = 8;
    /** The upper half of a float is a bfloat16. */
    private static final int BF16_SHIFT = 16;
    private static final VectorSpecies<Short> SHORTS = VectorSpecies.of(short.class, half());

    /** Vectors that are read, or whose codes are written, together. */
    private static final int TOGETHER = 4;
    private static final int GROUP = TOGETHER * L;
    private static final VectorSpecies<Integer> HALF_INTS = VectorSpecies.of(int.class, half());
    /** Byte q of each int, for one q after the other. */
    private static final VectorShuffle<Byte> BYTES_APART = VectorShuffle.fromOp(VectorSpecies.of(byte.class, half()),
            i -> i % (L / 2) * TOGETHER + i / (L / 2));

    private static final VectorShuffle<Integer> BY_1 = exchange(1), BY_2 = exchange(2), BY_4 = exchange(4);

    private final Codebook codebook;
    /** The bits of the thresholds, ascending, infinity where there are fewer. */
    private final int[] thresholdBits;
    private final int[] codesByRank;
    private final VectorThresholds cells;

    /** One thread's run of elements. */
    static final class Scratch {
        private final float[] values = new float[RUN];
        /** The bits of the largest magnitude of each group, then of each block. */
        private final int[] most = new int[RUN / Math.min(GROUP, QuantConfig.MIN_BLOCKSIZE)];
        /** What each block's elements are multiplied with. */
        private final float[] factors = new float[RUN / QuantConfig.MIN_BLOCKSIZE];
    }

    VectorEncoder(Codebook codebook) {
        this.codebook = codebook;
        float[] thresholds = codebook.thresholds();
        this.thresholdBits = new int[Codebook.SIZE];
        this.codesByRank = new int[Codebook.SIZE];
        this.cells = new VectorThresholds(thresholds);
        for (int i = 0; i < Codebook.SIZE; i++) {
            codesByRank[i] = (int) (codebook.codesByRank() >>> (4 * i)) & 0xf;
            thresholdBits[i] = Float
                    .floatToRawIntBits(i < thresholds.length ? thresholds[i] : Float.POSITIVE_INFINITY);
        }
    }

    /** One of each type, by its ordinal. */
    static VectorEncoder[] ofTypes() {
        VectorEncoder[] encoders = new VectorEncoder[QuantType.values().length];
        for (QuantType type : QuantType.values()) {
            encoders[type.ordinal()] = new VectorEncoder(type.codebook());
        }
        return encoders;
    }

    private static VectorShape half() {
        return VectorShape.forBitSize(Lanes.BITS / 2);
    }

    private static VectorShuffle<Integer> exchange(int h) {
        return VectorShuffle.fromOp(Lanes.I, lane -> (lane ^ h) % L);
    }

    /**
     * Quantizes {@code x[from .. from + n)}, with which a block begins.
     *
     * @param n at most {@link #RUN}; the last block may be shorter
     * @param packed the codes, see {@link Codebook#code}, in pairs; an odd tail's low nibble is the code of 0
     * @param constants F32, a constant a block
     */
    void quantize(Tensor x, long from, int n, int blocksize, MemorySegment packed, MemorySegment constants,
            Scratch own) {
        long block = from / blocksize;
        boolean whole = n % blocksize == 0 && blocksize % GROUP == 0;
        if (whole && x.dtype() == DType.F32) {
            loadF32(x.data(), from, n, own.values, own.most);
        } else if (whole && x.dtype() == DType.BF16) {
            loadBf16(x.data(), from, n, own.values, own.most);
        } else {
            whole = false;
            Elements.load(x, from, n, own.values, 0);
            for (int at = 0; at < n; at += blocksize) {
                own.most[at / blocksize] = magnitude(own.values, at, Math.min(blocksize, n - at));
            }
        }
        int blocks = Math.ceilDiv(n, blocksize);
        if (whole) {
            join(own.most, blocksize / GROUP, blocks);
        }
        boolean finite = usual(own.most, blocks, own.factors, constants, block)
                || unusual(own, n, blocksize, constants, block);
        int coded = finite && L >= 8
                ? encodeByCell(own.values, n, own.factors, blocksize, packed, from / 2)
                : encodeByHalving(own.values, n, own.factors, blocksize, packed, from / 2);
        for (int i = coded; i < n; i += 2) {
            packed.set(Elements.BYTE, (from + i) / 2, Nibbles.pack(code(own, i, blocksize),
                    i + 1 < n ? code(own, i + 1, blocksize) : codebook.zeroCode()));
        }
    }

    private int code(Scratch own, int i, int blocksize) {
        return codebook.code(own.values[i] * own.factors[i / blocksize]);
    }

    /** Copies n elements, whole groups, and finds the largest magnitude of each group. */
    private static void loadF32(MemorySegment x, long from, int n, float[] values, int[] most) {
        for (int i = 0; i < n; i += GROUP) {
            long at = 4 * (from + i);
            FloatVector v0 = FloatVector.fromMemorySegment(Lanes.F, x, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector v1 = FloatVector.fromMemorySegment(Lanes.F, x, at + 4 * L, ByteOrder.LITTLE_ENDIAN);
            FloatVector v2 = FloatVector.fromMemorySegment(Lanes.F, x, at + 8 * L, ByteOrder.LITTLE_ENDIAN);
            FloatVector v3 = FloatVector.fromMemorySegment(Lanes.F, x, at + 12 * L, ByteOrder.LITTLE_ENDIAN);
            most[i / GROUP] = keep(v0, v1, v2, v3, values, i);
        }
    }

    /** The same for bfloat16. */
    private static void loadBf16(MemorySegment x, long from, int n, float[] values, int[] most) {
        for (int i = 0; i < n; i += GROUP) {
            long at = 2 * (from + i);
            most[i / GROUP] = keep(bf16(x, at), bf16(x, at + 2 * L), bf16(x, at + 4 * L), bf16(x, at + 6 * L), values,
                    i);
        }
    }

    private static FloatVector bf16(MemorySegment x, long at) {
        return ((IntVector) ShortVector.fromMemorySegment(SHORTS, x, at, ByteOrder.LITTLE_ENDIAN)
                .convertShape(VectorOperators.ZERO_EXTEND_S2I, Lanes.I, 0))
                .lanewise(VectorOperators.LSHL, BF16_SHIFT).reinterpretAsFloats();
    }

    private static int keep(FloatVector v0, FloatVector v1, FloatVector v2, FloatVector v3, float[] values, int i) {
        v0.intoArray(values, i);
        v1.intoArray(values, i + L);
        v2.intoArray(values, i + 2 * L);
        v3.intoArray(values, i + 3 * L);
        IntVector m01 = v0.reinterpretAsInts().and(MAGNITUDE).max(v1.reinterpretAsInts().and(MAGNITUDE));
        IntVector m23 = v2.reinterpretAsInts().and(MAGNITUDE).max(v3.reinterpretAsInts().and(MAGNITUDE));
        return m01.max(m23).reduceLanes(VectorOperators.MAX);
    }

    /** The largest magnitude of each block of that of each of its groups, in place. */
    private static void join(int[] most, int groups, int blocks) {
        if (groups == 1) {
            return;
        }
        for (int b = 0; b < blocks; b++) {
            int m = 0;
            for (int g = b * groups; g < (b + 1) * groups; g++) {
                m = Math.max(m, most[g]);
            }
            most[b] = m;
        }
    }

    /** The bits of the largest magnitude of {@code x[from .. from + n)}, which order as magnitudes do. */
    static int magnitude(float[] x, int from, int n) {
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
        return bits;
    }

    /** Constants and factors of blocks; false, with all of them to be found again, if one is tiny, infinite or NaN. */
    private static boolean usual(int[] most, int n, float[] factors, MemorySegment constants, long block) {
        boolean usual = true;
        int b = 0;
        for (; b <= n - L; b += L) {
            FloatVector c = IntVector.fromArray(Lanes.I, most, b).reinterpretAsFloats();
            FloatVector factor = FloatVector.broadcast(Lanes.F, 1f).div(c);
            // Products with 0 are 0 unless a factor is infinite, as a tiny constant's is, or NaN; so is an infinite constant's.
            usual &= !c.mul(0f).add(factor.mul(0f)).test(VectorOperators.IS_NAN).anyTrue();
            c.intoMemorySegment(constants, 4 * (block + b), ByteOrder.LITTLE_ENDIAN);
            factor.intoArray(factors, b);
        }
        for (; b < n; b++) {
            float c = Absmax.ofBits(most[b]);
            usual &= Float.isFinite(c) && !Absmax.isTiny(c);
            constants.set(Elements.FLOAT, 4 * (block + b), c);
            factors[b] = Absmax.reciprocal(c);
        }
        return usual;
    }

    /** The same for any blocks: those with tiny constants are divided by them here. Whether all constants are finite. */
    private static boolean unusual(Scratch own, int n, int blocksize, MemorySegment constants, long block) {
        boolean finite = true;
        for (int b = 0, at = 0; at < n; b++, at += blocksize) {
            float c = Absmax.ofBits(own.most[b]);
            finite &= Float.isFinite(c);
            constants.set(Elements.FLOAT, 4 * (block + b), c);
            if (Absmax.isTiny(c)) {
                normalize(own.values, at, Math.min(blocksize, n - at), c);
                own.factors[b] = 1;
            } else {
                own.factors[b] = Absmax.reciprocal(c);
            }
        }
        return finite;
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
     * Writes the codes of numbers times their blocks' factors, which are finite, a group at a time; how many those are. A
     * group's vectors are a loop, which the compiler unrolls, and nothing is a method of its own: of more code than this
     * it does not inline all, and makes vectors on the heap.
     */
    private int encodeByCell(float[] x, int n, float[] factors, int blocksize, MemorySegment packed, long offset) {
        IntVector c0 = VectorCodec.table(codesByRank, 0), c1 = VectorCodec.table(codesByRank, 1);
        IntVector t0 = VectorCodec.table(cells.threshold, 0), t1 = VectorCodec.table(cells.threshold, 1);
        IntVector t2 = VectorCodec.table(cells.threshold, 2), t3 = VectorCodec.table(cells.threshold, 3);
        IntVector b0 = VectorCodec.table(cells.below, 0), b1 = VectorCodec.table(cells.below, 1);
        IntVector b2 = VectorCodec.table(cells.below, 2), b3 = VectorCodec.table(cells.below, 3);
        FloatVector half = FloatVector.broadcast(Lanes.F, VectorThresholds.HALF);
        FloatVector toInteger = FloatVector.broadcast(Lanes.F, VectorThresholds.TO_INTEGER);
        boolean signMagnitude = codebook.signMagnitude();
        int shift = Integer.numberOfTrailingZeros(blocksize);
        int i = 0;
        for (; i <= n - GROUP; i += GROUP) {
            IntVector codes = IntVector.zero(Lanes.I);
            for (int q = TOGETHER - 1; q >= 0; q--) {
                FloatVector v = FloatVector.fromArray(Lanes.F, x, i + q * L).mul(factors[i + q * L >>> shift]);
                FloatVector compared = signMagnitude ? v.abs() : v;
                IntVector cell = compared.fma(half, toInteger).reinterpretAsInts();
                IntVector below = cell.selectFrom(b0, b1);
                IntVector threshold = cell.selectFrom(t0, t1);
                if (L == 8) {
                    VectorMask<Integer> upper = cell.and(2 * L).compare(VectorOperators.NE, 0);
                    below = below.blend(cell.selectFrom(b2, b3), upper);
                    threshold = threshold.blend(cell.selectFrom(t2, t3), upper);
                }
                IntVector code = below.add(1, compared.compare(VectorOperators.GT, threshold.reinterpretAsFloats())
                        .cast(Lanes.I));
                if (signMagnitude) {
                    code = (L == 16 ? code.selectFrom(c0) : code.selectFrom(c0, c1)).lanewise(VectorOperators.OR,
                            SIGN_BIT, v.compare(VectorOperators.LT, 0f).cast(Lanes.I));
                }
                // Byte q of a lane becomes its code in the q-th vector.
                codes = codes.lanewise(VectorOperators.LSHL, Byte.SIZE).or(code);
            }
            LongVector pairs = codes.reinterpretAsLongs();
            pairs = pairs.lanewise(VectorOperators.LSHL, 4).or(pairs.lanewise(VectorOperators.LSHR, Integer.SIZE));
            ((IntVector) pairs.convertShape(VectorOperators.L2I, HALF_INTS, 0)).reinterpretAsBytes()
                    .rearrange(BYTES_APART).intoMemorySegment(packed, offset + i / 2, ByteOrder.LITTLE_ENDIAN);
        }
        return i;
    }

    /** The same for any numbers and any width, a vector at a time. */
    private int encodeByHalving(float[] x, int n, float[] factors, int blocksize, MemorySegment packed, long offset) {
        IntVector c0 = VectorCodec.table(codesByRank, 0), c1 = VectorCodec.table(codesByRank, 1);
        IntVector c2 = VectorCodec.table(codesByRank, 2), c3 = VectorCodec.table(codesByRank, 3);
        IntVector t0 = VectorCodec.table(thresholdBits, 0), t1 = VectorCodec.table(thresholdBits, 1);
        IntVector t2 = VectorCodec.table(thresholdBits, 2), t3 = VectorCodec.table(thresholdBits, 3);
        boolean signMagnitude = codebook.signMagnitude();
        int shift = Integer.numberOfTrailingZeros(blocksize);
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector v = FloatVector.fromArray(Lanes.F, x, i).mul(factors[i >>> shift]);
            IntVector code = VectorCodec.lookup(rank(signMagnitude ? v.abs() : v, t0, t1, t2, t3), c0, c1, c2, c3);
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
            FloatVector threshold = VectorCodec.lookup(rank.add(step - 1), t0, t1, t2, t3).reinterpretAsFloats();
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
        IntVector word = codes.lanewise(VectorOperators.LSHL, VectorCodec.POSITIONS);
        word = word.or(word.rearrange(BY_1));
        word = word.or(word.rearrange(BY_2));
        if (L == 4) {
            packed.set(Elements.SHORT, offset, (short) word.lane(0));
        } else {
            packed.set(Elements.INT, offset, word.or(word.rearrange(BY_4)).lane(0));
        }
    }
}
