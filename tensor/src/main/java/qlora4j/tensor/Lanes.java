package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/**
 * The one place that chooses the vector width. It is a constant of the process, because the compiler turns vector code
 * into machine instructions only where the species is a constant; see {@link Backends#VECTOR_BITS}.
 */
public final class Lanes {
    /** Float lanes. */
    public static final VectorSpecies<Float> F;
    /** Int lanes, as many as float lanes. */
    public static final VectorSpecies<Integer> I;
    /** The width in bits: 128, 256 or 512. */
    public static final int BITS;
    /** The number of 32-bit lanes. */
    public static final int L;

    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final VectorShuffle<Float> BY_8;
    private static final VectorShuffle<Float> BY_4;
    private static final VectorShuffle<Float> BY_2;
    private static final VectorShuffle<Float> BY_1;
    private static final int[] MERGE;

    static {
        String asked = System.getProperty(Backends.VECTOR_BITS);
        VectorShape shape = asked == null || asked.isEmpty()
                ? FloatVector.SPECIES_PREFERRED.vectorShape()
                : shape(asked);
        F = VectorSpecies.of(float.class, shape);
        I = VectorSpecies.of(int.class, shape);
        BITS = shape.vectorBitSize();
        L = F.length();
        BY_8 = rotation(8);
        BY_4 = rotation(4);
        BY_2 = rotation(2);
        BY_1 = rotation(1);
        MERGE = merge();
    }

    private Lanes() {
    }

    private static VectorShape shape(String bits) {
        return switch (bits) {
            case "128" -> VectorShape.S_128_BIT;
            case "256" -> VectorShape.S_256_BIT;
            case "512" -> VectorShape.S_512_BIT;
            default -> throw new IllegalArgumentException("--vector-bits " + bits + ": expected 128, 256 or 512");
        };
    }

    private static VectorShuffle<Float> rotation(int by) {
        return VectorShuffle.fromOp(F, lane -> (lane + by) % L);
    }

    /**
     * The sum of all lanes, halves added to halves. Unlike {@code reduceLanes}, whose order is not specified and may
     * change when the method is compiled, it gives the same bits at every run.
     */
    public static float sum(FloatVector v) {
        if (L >= 16) {
            v = v.add(v.rearrange(BY_8));
        }
        if (L >= 8) {
            v = v.add(v.rearrange(BY_4));
        }
        v = v.add(v.rearrange(BY_2));
        return v.add(v.rearrange(BY_1)).lane(0);
    }

    /**
     * Sums of all lanes, those of {@link #sum}, of {@code n} vectors: {@code sums[at + j] = Σ lanes[from + j·L …]}. Of L vectors
     * at a time those of two become one again and again: the lower halves of both and the upper halves of both are added,
     * then quarters.
     *
     * @param lanes overwritten
     */
    public static void sums(float[] lanes, int from, int n, float[] sums, int at) {
        int whole = n / L * L;
        for (int first = 0; first < whole; first += L) {
            int vectors = from + first * L;
            for (int half = L / 2; half > 0; half /= 2) {
                for (int v = vectors; v < vectors + half * L; v += L) {
                    IntVector a = FloatVector.fromArray(F, lanes, v).reinterpretAsInts();
                    IntVector b = FloatVector.fromArray(F, lanes, v + half * L).reinterpretAsInts();
                    // Which lanes is read here again and again: kept from before the loop, it would be kept on the heap.
                    IntVector lower = IntVector.fromArray(I, MERGE, 2 * half * L).selectFrom(a, b);
                    IntVector upper = IntVector.fromArray(I, MERGE, (2 * half - 1) * L).selectFrom(a, b);
                    lower.reinterpretAsFloats().add(upper.reinterpretAsFloats()).intoArray(lanes, v);
                }
            }
            FloatVector.fromArray(F, lanes, vectors).intoArray(sums, at + first);
        }
        for (int j = whole; j < n; j++) {
            // As in sum(), which the compiler may leave uninlined here: the vector would be made on the heap.
            FloatVector v = FloatVector.fromArray(F, lanes, from + j * L);
            if (L >= 16) {
                v = v.add(v.rearrange(BY_8));
            }
            if (L >= 8) {
                v = v.add(v.rearrange(BY_4));
            }
            v = v.add(v.rearrange(BY_2));
            sums[at + j] = v.add(v.rearrange(BY_1)).lane(0);
        }
    }

    /**
     * For {@link #sums}, of each half's length h: which lanes of two vectors, of which the second follows the first, are the
     * lower halves of their runs of 2·h, from {@code 2·h·L} on, and before that the upper ones.
     */
    private static int[] merge() {
        int[] merge = new int[(L + 1) * L];
        for (int half = L / 2; half > 0; half /= 2) {
            for (int lane = 0; lane < L; lane++) {
                int run = lane / half;
                int lower = run % 2 * L + run / 2 * 2 * half + lane % half;
                merge[2 * half * L + lane] = lower;
                merge[(2 * half - 1) * L + lane] = lower + half;
            }
        }
        return merge;
    }

    /** An int vector of the lane numbers 0, 1, 2 ... */
    public static IntVector iota() {
        return IntVector.zero(I).addIndex(1);
    }

    /**
     * Copies {@code n} 32-bit values of {@code d}, from a byte offset on, to {@code out[at …]}. For rows of panels and
     * heads, a few vectors long, this is several times as fast as {@link MemorySegment#copy}.
     */
    public static void load(MemorySegment d, long offset, int n, float[] out, int at) {
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector.fromMemorySegment(F, d, offset + 4L * i, ByteOrder.LITTLE_ENDIAN).intoArray(out, at + i);
        }
        for (; i < n; i++) {
            out[at + i] = d.get(FLOAT, offset + 4L * i);
        }
    }

    /** Copies {@code in[at …]}, {@code n} values, to {@code d} from a byte offset on. */
    static void store(float[] in, int at, int n, MemorySegment d, long offset) {
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector.fromArray(F, in, at + i).intoMemorySegment(d, offset + 4L * i, ByteOrder.LITTLE_ENDIAN);
        }
        for (; i < n; i++) {
            d.set(FLOAT, offset + 4L * i, in[at + i]);
        }
    }

    /** Adds {@code in[at …]} to {@code n} float32 values of {@code d} from a byte offset on. */
    static void addTo(float[] in, int at, int n, MemorySegment d, long offset) {
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector.fromMemorySegment(F, d, offset + 4L * i, ByteOrder.LITTLE_ENDIAN)
                    .add(FloatVector.fromArray(F, in, at + i))
                    .intoMemorySegment(d, offset + 4L * i, ByteOrder.LITTLE_ENDIAN);
        }
        for (; i < n; i++) {
            d.set(FLOAT, offset + 4L * i, d.get(FLOAT, offset + 4L * i) + in[at + i]);
        }
    }

    /** Adds {@code n} float32 values of {@code d}, from a byte offset on, to {@code sum[at …]}. */
    static void add(MemorySegment d, long offset, int n, float[] sum, int at) {
        int i = 0;
        for (; i <= n - L; i += L) {
            FloatVector.fromMemorySegment(F, d, offset + 4L * i, ByteOrder.LITTLE_ENDIAN)
                    .add(FloatVector.fromArray(F, sum, at + i)).intoArray(sum, at + i);
        }
        for (; i < n; i++) {
            sum[at + i] += d.get(FLOAT, offset + 4L * i);
        }
    }

    /**
     * Copies {@code n} float32 values of {@code d}, from a byte offset on, to runs of {@code run} floats at distances
     * of {@code stride}. For runs of a few vectors one loop is several times as fast as a call of {@link #load} each.
     *
     * @param run a multiple of L
     * @param n a multiple of run
     */
    static void loadStrided(MemorySegment d, long offset, int n, float[] out, int at, int run, int stride) {
        for (int j = 0, to = at; j < n; j += run, to += stride) {
            for (int i = 0; i < run; i += L) {
                FloatVector.fromMemorySegment(F, d, offset + 4L * (j + i), ByteOrder.LITTLE_ENDIAN)
                        .intoArray(out, to + i);
            }
        }
    }

    /** The reverse of {@link #loadStrided}: {@code n} floats from runs of {@code in} to {@code d}. */
    static void storeStrided(float[] in, int at, int run, int stride, int n, MemorySegment d, long offset) {
        for (int j = 0, from = at; j < n; j += run, from += stride) {
            for (int i = 0; i < run; i += L) {
                FloatVector.fromArray(F, in, from + i).intoMemorySegment(d, offset + 4L * (j + i),
                        ByteOrder.LITTLE_ENDIAN);
            }
        }
    }

    /** {@link #storeStrided} of what is added to {@code base}, at the same offset; it may be {@code d}. */
    static void addStrided(float[] in, int at, int run, int stride, int n, MemorySegment base, MemorySegment d,
            long offset) {
        for (int j = 0, from = at; j < n; j += run, from += stride) {
            for (int i = 0; i < run; i += L) {
                FloatVector.fromMemorySegment(F, base, offset + 4L * (j + i), ByteOrder.LITTLE_ENDIAN)
                        .add(FloatVector.fromArray(F, in, from + i))
                        .intoMemorySegment(d, offset + 4L * (j + i), ByteOrder.LITTLE_ENDIAN);
            }
        }
    }
}
