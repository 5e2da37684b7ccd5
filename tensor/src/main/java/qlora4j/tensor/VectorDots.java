package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Rows of a dense matrix times a vector, each row read once where it lies: {@link #ROWS} at a time, so that they share
 * the reads of the vector and memory has several streams to fetch ahead. A bfloat16 row is read by 32-bit words, whose
 * halves are two elements: shifted up, or with the lower half cleared, each is a float.
 */
final class VectorDots {
    /** Rows that share a pass over the vector. */
    static final int ROWS = 4;
    private static final int L = Lanes.L;
    private static final int STEP = 2 * L;
    /** The upper half of a word is the bfloat16 of the odd element, its lower half that of the even one before. */
    private static final int UPPER = 0xffff_0000;
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private VectorDots() {
    }

    /** Puts {@code n} elements of x into the order in which {@link #bf16} reads them: of each 2·L, the even ones first. */
    static void order(float[] x, int from, int n, float[] ordered, int at) {
        int whole = n / STEP * STEP;
        for (int i = 0; i < whole; i += STEP) {
            for (int lane = 0; lane < L; lane++) {
                ordered[at + i + lane] = x[from + i + 2 * lane];
                ordered[at + i + L + lane] = x[from + i + 2 * lane + 1];
            }
        }
        System.arraycopy(x, from + whole, ordered, at + whole, n - whole);
    }

    /**
     * {@code Σ w[r][p]·x[from + p]} for {@link #ROWS} rows of float32, over the whole vectors of n: a sum for each lane, in
     * {@code lanes[(to + r·step)·L …]}. {@link #add} does the rest; in one method with this loop the compiler would stop
     * inlining before it, and make vectors on the heap; it did so too with the reads in a method of their own.
     *
     * @param offset of the first row's first byte
     * @param distance from a row to the next, in bytes
     */
    static void f32(MemorySegment w, long offset, long distance, float[] x, int from, int n, float[] lanes, int to,
            int step) {
        FloatVector a0 = FloatVector.zero(Lanes.F), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        int p = 0;
        for (; p <= n - STEP; p += STEP) {
            long at = offset + 4L * p;
            FloatVector v = FloatVector.fromArray(Lanes.F, x, from + p);
            a0 = FloatVector.fromMemorySegment(Lanes.F, w, at, ByteOrder.LITTLE_ENDIAN).fma(v, a0);
            a1 = FloatVector.fromMemorySegment(Lanes.F, w, at + distance, ByteOrder.LITTLE_ENDIAN).fma(v, a1);
            a2 = FloatVector.fromMemorySegment(Lanes.F, w, at + 2 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, a2);
            a3 = FloatVector.fromMemorySegment(Lanes.F, w, at + 3 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, a3);
            v = FloatVector.fromArray(Lanes.F, x, from + p + L);
            at += Lanes.BITS / 8;
            b0 = FloatVector.fromMemorySegment(Lanes.F, w, at, ByteOrder.LITTLE_ENDIAN).fma(v, b0);
            b1 = FloatVector.fromMemorySegment(Lanes.F, w, at + distance, ByteOrder.LITTLE_ENDIAN).fma(v, b1);
            b2 = FloatVector.fromMemorySegment(Lanes.F, w, at + 2 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, b2);
            b3 = FloatVector.fromMemorySegment(Lanes.F, w, at + 3 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, b3);
        }
        if (p <= n - L) {
            // An adapter's B may have no more columns than this.
            long at = offset + 4L * p;
            FloatVector v = FloatVector.fromArray(Lanes.F, x, from + p);
            a0 = FloatVector.fromMemorySegment(Lanes.F, w, at, ByteOrder.LITTLE_ENDIAN).fma(v, a0);
            a1 = FloatVector.fromMemorySegment(Lanes.F, w, at + distance, ByteOrder.LITTLE_ENDIAN).fma(v, a1);
            a2 = FloatVector.fromMemorySegment(Lanes.F, w, at + 2 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, a2);
            a3 = FloatVector.fromMemorySegment(Lanes.F, w, at + 3 * distance, ByteOrder.LITTLE_ENDIAN).fma(v, a3);
        }
        a0.add(b0).intoArray(lanes, to * L);
        a1.add(b1).intoArray(lanes, (to + step) * L);
        a2.add(b2).intoArray(lanes, (to + 2 * step) * L);
        a3.add(b3).intoArray(lanes, (to + 3 * step) * L);
    }

    /** The same for rows of bfloat16, over whole steps of two vectors, with x as {@link #order} leaves it. */
    static void bf16(MemorySegment w, long offset, long distance, float[] x, int from, int n, float[] lanes, int to,
            int step) {
        FloatVector a0 = FloatVector.zero(Lanes.F), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
        for (int p = 0; p <= n - STEP; p += STEP) {
            long at = offset + 2L * p;
            FloatVector even = FloatVector.fromArray(Lanes.F, x, from + p);
            FloatVector odd = FloatVector.fromArray(Lanes.F, x, from + p + L);
            IntVector word = words(w, at);
            a0 = even(word).fma(even, a0);
            b0 = odd(word).fma(odd, b0);
            word = words(w, at + distance);
            a1 = even(word).fma(even, a1);
            b1 = odd(word).fma(odd, b1);
            word = words(w, at + 2 * distance);
            a2 = even(word).fma(even, a2);
            b2 = odd(word).fma(odd, b2);
            word = words(w, at + 3 * distance);
            a3 = even(word).fma(even, a3);
            b3 = odd(word).fma(odd, b3);
        }
        a0.add(b0).intoArray(lanes, to * L);
        a1.add(b1).intoArray(lanes, (to + step) * L);
        a2.add(b2).intoArray(lanes, (to + 2 * step) * L);
        a3.add(b3).intoArray(lanes, (to + 3 * step) * L);
    }

    /** {@code sums[at + j]} of rows {@code first + j} of W, from their lanes and what lies behind those. */
    static void add(Tensor w, int first, int count, float[] x, int from, float[] lanes, float[] sums, int at) {
        Lanes.sums(lanes, at * L, count, sums, at);
        int n = w.cols();
        int whole = w.dtype() == DType.BF16 ? n / STEP * STEP : n / L * L;
        for (int j = 0; j < count && whole < n; j++) {
            long row = (long) (first + j) * n;
            sums[at + j] = w.dtype() == DType.BF16
                    ? tailBf16(w.data(), 2 * row, x, from, whole, n, sums[at + j])
                    : tail(w.data(), 4 * row, x, from, whole, n, sums[at + j]);
        }
    }

    private static float tail(MemorySegment w, long offset, float[] x, int from, int p, int n, float sum) {
        for (; p < n; p++) {
            sum = Math.fma(w.get(FLOAT, offset + 4L * p), x[from + p], sum);
        }
        return sum;
    }

    private static float tailBf16(MemorySegment w, long offset, float[] x, int from, int p, int n, float sum) {
        for (; p < n; p++) {
            sum = Math.fma(DType.bf16ToFloat(w.get(SHORT, offset + 2L * p)), x[from + p], sum);
        }
        return sum;
    }

    private static IntVector words(MemorySegment w, long at) {
        return IntVector.fromMemorySegment(Lanes.I, w, at, ByteOrder.LITTLE_ENDIAN);
    }

    private static FloatVector even(IntVector words) {
        return words.lanewise(VectorOperators.LSHL, 16).reinterpretAsFloats();
    }

    private static FloatVector odd(IntVector words) {
        return words.and(UPPER).reinterpretAsFloats();
    }
}
