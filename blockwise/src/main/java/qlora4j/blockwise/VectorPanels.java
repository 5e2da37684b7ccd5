package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.VectorGemm;
import qlora4j.tensor.VectorTranspose;

/**
 * A quantized matrix W {@code [out, in]} delivered as float panels of W or of its transpose, rounded to the type that a
 * product is computed in. One per product: it is small.
 */
final class VectorPanels {
    private static final int L = Lanes.L;
    private static final int NC = VectorGemm.NC;
    /** Rows of W whose memory is asked for at once. */
    private static final int FETCHED_ROWS = 16;
    /** Codes in a 32-bit word. */
    private static final int WORD = 8;

    /** One thread's memory, which products of one backend share: L rows of W, and their transpose. */
    static final class Scratch {
        private final float[] rows = new float[L * VectorGemm.KC];
        private final float[] columns = new float[L * VectorGemm.KC];
        private final float[] scales = new float[L * (VectorGemm.KC / QuantConfig.MIN_BLOCKSIZE + 1)];
        private final VectorTranspose transpose = new VectorTranspose();
        /** Is written so that what only fetches memory is not left out. */
        private int fetched;

        static Scratch[] of(int threads) {
            Scratch[] s = new Scratch[threads];
            Arrays.setAll(s, worker -> new Scratch());
            return s;
        }
    }

    private final VectorCodec codec;
    private final Scratch[] scratch;
    private final DType compute;
    private final MemorySegment packed;
    private final Scales scales;
    private final int blocksize;
    private final int in;
    private final int out;

    VectorPanels(QuantizedTensor w, VectorCodec codec, DType compute, Scratch[] scratch) {
        this.codec = codec;
        this.compute = compute;
        this.scratch = scratch;
        this.packed = w.packed().data();
        this.scales = new Scales(w);
        this.blocksize = w.config().blocksize();
        this.in = w.inFeatures();
        this.out = w.outFeatures();
    }

    /** Elements {@code first .. first + n} of the flattened matrix, wherever blocks and bytes begin. */
    void decode(long first, int n, float[] target, int at) {
        decodeRuns(first, n, target, at);
        VectorCodec.round(compute, target, at, n);
    }

    /**
     * The same, not rounded. Runs that begin in a byte and those that do not are decoded by one call, and so rounded by
     * one: each is inlined whole where it is called, and beyond some number of operations the compiler inlines no more.
     */
    private void decodeRuns(long first, int n, float[] target, int at) {
        long block = first / blocksize;
        int done = 0;
        while (done < n) {
            long i = first + done;
            float scale = scales.get(block);
            int run = (int) Math.min(n - done, ++block * blocksize - i);
            int odd = (int) (i % 2);
            if (odd == 1) {
                target[at + done] = codec.value(packed, i) * scale;
            }
            codec.decode(packed, i + odd, run - odd, scale, target, at + done + odd);
            done += run;
        }
    }

    /**
     * Reads the first and the last word of {@code n} columns, two cache lines at most as a rule, of some rows: all these
     * reads are under way at once. Between other work the memory of each row would be waited for.
     */
    private void fetch(long first, int rows, int n, Scratch own) {
        int seen = 0;
        long last = n / 2 - Integer.BYTES;
        for (int i = 0; i < rows; i++) {
            long at = (first + (long) i * in) / 2;
            seen |= packed.get(Elements.INT, at) | packed.get(Elements.INT, at + last);
        }
        own.fetched = seen;
    }

    /** Panels of W itself, {@code B[p][j] = W[p, j]}: the backward product. */
    VectorGemm.PanelSource rows() {
        boolean fetches = in % 2 == 0;
        return (p0, pc, j0, jc, panels, worker) -> {
            Scratch own = scratch[worker];
            float[] row = own.rows;
            for (int p = 0; p < pc; p++) {
                long first = (long) (p0 + p) * in + j0;
                if (fetches && jc >= WORD && p % FETCHED_ROWS == 0) {
                    fetch(first, Math.min(FETCHED_ROWS, pc - p), jc, own);
                }
                if (first % blocksize == 0) {
                    scales.get(first / blocksize, (jc + blocksize - 1) / blocksize, own.scales, 0, 1);
                    codec.decode(packed, first, jc, own.scales, blocksize, row, 0);
                } else {
                    decodeRuns(first, jc, row, 0);
                }
                VectorCodec.round(compute, row, 0, jc);
                for (int j = 0, at = p * NC; j < jc; j += L) {
                    FloatVector.fromArray(Lanes.F, row, j).intoArray(panels, at + column(j));
                }
            }
        };
    }

    /** Panels of W transposed, {@code B[p][j] = W[j, p]}: the forward product. */
    VectorGemm.PanelSource columns() {
        // Then rows begin with a block and a byte, and a panel holds whole words.
        return VectorGemm.PanelSource.byPanels(in % blocksize == 0 ? this::fillByWords : this::fillByRows);
    }

    private void fillByRows(int p0, int pc, int j0, int jc, float[] panels, int worker) {
        Scratch own = scratch[worker];
        for (int j = 0; j < jc; j += L) {
            int count = Math.min(L, jc - j);
            for (int i = 0; i < count; i++) {
                decode((long) (j0 + j + i) * in + p0, pc, own.rows, i * VectorGemm.KC);
            }
            own.transpose.run(own.rows, 0, VectorGemm.KC, count, pc, panels, column(j), NC);
        }
    }

    /** Where column j of the panels begins. */
    private static int column(int j) {
        return j / NC * VectorGemm.PANEL + j % NC;
    }

    /** Lanes run over rows of W: one word of each gives eight vectors, the same column of {@code L} rows each. */
    private void fillByWords(int p0, int pc, int j0, int jc, float[] panels, int worker) {
        Scratch own = scratch[worker];
        int words = pc / WORD;
        int into = p0 % blocksize;
        int blocks = (into + pc + blocksize - 1) / blocksize;
        fetch((long) j0 * in + p0, jc, pc, own);
        for (int j = 0; j < jc; j += L) {
            // Lanes beyond the last row keep what is there; nobody reads those columns.
            int count = Math.min(L, jc - j);
            for (int i = 0; i < count; i++) {
                long first = (long) (j0 + j + i) * in + p0;
                Lanes.load(packed, first / 2, words, own.rows, i * VectorGemm.KC);
                scales.get(first / blocksize, blocks, own.scales, i, L);
            }
            own.transpose.run(own.rows, 0, VectorGemm.KC, count, words, own.columns, 0, L);
            expand(own, into, pc, blocks, panels, column(j));
        }
        if (compute != DType.F32) {
            for (int j = 0; j < jc; j += NC) {
                VectorCodec.round(compute, panels, column(j), pc * NC);
            }
        }
    }

    /** The words of L rows to their columns; a method by itself, as all of a fill is more than the compiler inlines. */
    private void expand(Scratch own, int into, int pc, int blocks, float[] panels, int at) {
        IntVector t0 = codec.table(0), t1 = codec.table(1), t2 = codec.table(2), t3 = codec.table(3);
        for (int b = 0; b < blocks; b++) {
            FloatVector s = FloatVector.fromArray(Lanes.F, own.scales, b * L);
            int end = Math.min(pc, (b + 1) * blocksize - into);
            for (int p = Math.max(0, b * blocksize - into); p < end; p += WORD) {
                IntVector word = FloatVector.fromArray(Lanes.F, own.columns, p / WORD * L).reinterpretAsInts();
                expand(word, s, t0, t1, t2, t3, panels, at + p * NC, NC);
            }
        }
    }

    /**
     * Writes the eight columns of one word of each lane; the first code of a pair is in the high nibble. It is a loop
     * over pairs because eight nibbles written out are more than the compiler inlines at every width.
     */
    private static void expand(IntVector word, FloatVector scale, IntVector t0, IntVector t1, IntVector t2,
            IntVector t3, float[] panel, int at, int ld) {
        IntVector rest = word;
        for (int p = 0, to = at; p < WORD; p += 2, to += 2 * ld) {
            value(rest, 1, t0, t1, t2, t3).mul(scale).intoArray(panel, to);
            value(rest, 0, t0, t1, t2, t3).mul(scale).intoArray(panel, to + ld);
            rest = rest.lanewise(VectorOperators.LSHR, 8);
        }
    }

    private static FloatVector value(IntVector word, int q, IntVector t0, IntVector t1, IntVector t2, IntVector t3) {
        return VectorCodec.values(VectorCodec.nibble(word, q), t0, t1, t2, t3);
    }
}
