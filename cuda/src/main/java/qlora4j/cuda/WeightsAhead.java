package qlora4j.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.cuda.Products.Matrix;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.tensor.DType;

/**
 * Dequantized weights in the workspace: those of the product to come, and those of the one behind it, which
 * {@link SummedProducts} dequantizes while it multiplies, as far as it was announced which they are. It changes no number.
 * The system property {@code qlora4j.cuda.ahead} is {@code never} for comparisons.
 */
final class WeightsAhead {
    /** The system property: never, or empty. */
    static final String PROPERTY = "qlora4j.cuda.ahead";

    /** As in gemm_hopper.cuh. */
    static final int MOST_PARTS = 3;
    private static final int PART_BYTES = 5 * 8 + 2 * 4;
    static final int PARTS_BYTES = MOST_PARTS * PART_BYTES + 2 * 8 + 2 * 4;
    private static final int PIECE = CudaBlockwise.PIECE;
    /** Multiplications of a launch for each element that it dequantizes beside them: with fewer it would end later. */
    private static final long MULTIPLICATIONS = 1500;

    /** Rows of a quantized matrix. */
    record Rows(QuantizedTensor w, int from, int count) {
        static Rows all(QuantizedTensor w) {
            return new Rows(w, 0, w.outFeatures());
        }

        private long first() {
            return (long) from * w.inFeatures();
        }

        private long elements() {
            return (long) count * w.inFeatures();
        }

        private boolean is(Rows other) {
            return w == other.w && from == other.from && count == other.count;
        }
    }

    /**
     * What is multiplied behind a product.
     *
     * @param then rows for the product behind that of {@code first}
     */
    record Next(List<Rows> first, List<Rows> then) {
        static final Next NOTHING = new Next(List.of(), List.of());
    }

    /** Where rows are, from the begin of the place for weights, and how many of their elements are there already. */
    private record Placed(Rows rows, long at, long done) {
        /** Where the first element of the whole matrix would be. */
        private long out(long base) {
            return base + at - DType.BF16.bytes(rows.first());
        }

        private long end() {
            return at + RoundedAdapters.bytes(rows.elements());
        }
    }

    private final CudaBackend cuda;
    private final CudaBlockwise blockwise;
    private final SummedProducts summed;
    private final boolean never = System.getProperty(PROPERTY, "").equals("never");
    private final List<Placed> current = new ArrayList<>();
    private final List<Placed> ready = new ArrayList<>();
    private List<Linear> layers = List.of();
    private List<Linear> gated = List.of();
    private boolean fromTop;
    private int overwritten;
    private long elements;

    WeightsAhead(CudaBackend cuda, CudaBlockwise blockwise, SummedProducts summed) {
        this.cuda = cuda;
        this.blockwise = blockwise;
        this.summed = summed;
    }

    /** How many elements were dequantized beside products so far. */
    long elements() {
        return elements;
    }

    /** See {@code LoraKernels.announce}. */
    void announce(List<Linear> next, List<Linear> gatedNext) {
        layers = never ? List.of() : next;
        gated = never ? List.of() : gatedNext;
    }

    /** What was announced, for a product of so many rows, once. */
    Next takeAnnounced(int m) {
        Next next = new Next(rows(layers, m, false), rows(gated, m, true));
        announce(List.of(), List.of());
        return next;
    }

    private List<Rows> rows(List<Linear> of, int m, boolean inParts) {
        List<Rows> all = new ArrayList<>();
        for (Linear l : of) {
            if (!(l.weight() instanceof LinearWeight.Quantized q)) {
                break;
            }
            all.add(inParts ? parts(q.w(), m).getFirst() : Rows.all(q.w()));
        }
        return all;
    }

    /** The rows of gate or up by which {@link GatedLora} takes it, for m rows of x. */
    List<Rows> parts(QuantizedTensor w, int m) {
        int first = never || w.inFeatures() % PIECE != 0 ? w.outFeatures() : summed.gatedPart(w.outFeatures(), m);
        return first == w.outFeatures() ? List.of(Rows.all(w))
                : List.of(new Rows(w, 0, first), new Rows(w, first, w.outFeatures() - first));
    }

    /** The next product begins: the weights of the last one are no longer needed. */
    void begin() {
        current.clear();
        if (overwritten != cuda.overwritten()) {
            ready.clear();
        }
        fromTop = gap().low > 0;
    }

    /** Rows in bfloat16 as they will be after {@link #finish}; null where there is no room for them beside the others. */
    Matrix place(Rows rows) {
        Placed placed = find(ready, rows);
        if (placed != null) {
            ready.remove(placed);
            // What is missing of the others goes beside it.
            fromTop = placed.at > room() - placed.end();
        } else {
            placed = free(rows);
            if (placed == null) {
                ready.clear();
                placed = free(rows);
            }
        }
        if (placed == null) {
            return null;
        }
        current.add(placed);
        int in = rows.w.inFeatures();
        return new Matrix(base() + placed.at, DType.BF16, rows.count, in, in);
    }

    private long base() {
        return cuda.operands(0) + Products.OPERANDS;
    }

    /** Memory for float32 elements of something else before the weights of the next product are placed. */
    long scratch(long elements) {
        long bytes = 2 * RoundedAdapters.bytes(elements);
        cuda.operands(Products.OPERANDS + bytes);
        begin();
        long at = gap(bytes);
        if (at < 0) {
            ready.clear();
            at = 0;
        }
        return base() + at;
    }

    private Placed free(Rows rows) {
        long at = gap(RoundedAdapters.bytes(rows.elements()));
        return at < 0 ? null : new Placed(rows, at, 0);
    }

    /** What is free: between the weights of a product, at one end, and those of the next, at the other. */
    private record Gap(long low, long high) {
    }

    private long room() {
        long bytes = Math.max(0, cuda.workspaceBytes() - Products.OPERANDS);
        return bytes / RoundedAdapters.ALIGNMENT * RoundedAdapters.ALIGNMENT;
    }

    private Gap gap() {
        long low = 0;
        long high = room();
        for (List<Placed> all : List.of(current, ready)) {
            for (Placed p : all) {
                if (p.at - low < high - p.end()) {
                    low = Math.max(low, p.end());
                } else {
                    high = Math.min(high, p.at);
                }
            }
        }
        return new Gap(low, high);
    }

    /** Room for so many bytes, or -1. */
    private long gap(long bytes) {
        Gap free = gap();
        return free.high - free.low < bytes ? -1 : fromTop ? free.high - bytes : free.low;
    }

    private static Placed find(List<Placed> all, Rows rows) {
        for (Placed p : all) {
            if (p.rows.is(rows)) {
                return p;
            }
        }
        return null;
    }

    /** Dequantizes what is missing of rows that were placed. */
    void finish(CudaStream s, Rows rows) {
        Placed p = find(current, rows);
        if (p.done < rows.elements()) {
            blockwise.dequantize(s, rows.w, rows.first() + p.done, rows.first() + rows.elements(), p.out(base()));
            current.set(current.indexOf(p), new Placed(rows, p.at, rows.elements()));
        }
    }

    /**
     * Writes {@code parts} and what belongs to them of {@code struct Work}: of {@code next}, what there is room and time
     * for. The product behind the next is on the other side of what is free, so that what is between is in one piece.
     */
    void write(Next next, long multiplications, MemorySegment to) {
        boolean low = gap().low > 0;
        boolean both = !next.first.isEmpty() && !next.then.isEmpty();
        long left = multiplications / MULTIPLICATIONS / PIECE * PIECE;
        int n = 0;
        QuantizedTensor like = null;
        fromTop = low != both;
        for (List<Rows> all : List.of(next.first, next.then)) {
            for (Rows r : all) {
                like = like == null ? r.w : like;
                Placed p = null;
                if (left > 0 && n < MOST_PARTS && fits(r, like)) {
                    p = find(ready, r);
                    p = p == null ? free(r) : p;
                }
                if (p == null) {
                    left = 0;
                    continue;
                }
                long count = Math.min(left, (r.elements() - p.done) / PIECE * PIECE);
                ready.remove(p);
                ready.add(new Placed(r, p.at, p.done + count));
                if (count > 0) {
                    part(p, count, to.asSlice((long) PART_BYTES * n++));
                }
                left -= count;
                elements += count;
            }
            fromTop = low;
        }
        long rest = (long) PART_BYTES * MOST_PARTS;
        to.set(ValueLayout.JAVA_INT, rest + 20, n);
        if (n > 0) {
            overwritten = cuda.overwritten();
            to.set(ValueLayout.JAVA_LONG, rest, blockwise.codebook(like.config().type()));
            to.set(ValueLayout.JAVA_LONG, rest + 8, blockwise.signedMap());
            to.set(ValueLayout.JAVA_INT, rest + 16, Integer.numberOfTrailingZeros(like.config().blocksize()));
        }
    }

    /** {@code struct Part}: the next {@code count} elements of rows. */
    private void part(Placed p, long count, MemorySegment to) {
        QuantizedTensor w = p.rows.w;
        long from = p.rows.first() + p.done;
        to.set(ValueLayout.JAVA_LONG, 0, w.packed().data().address());
        to.set(ValueLayout.JAVA_LONG, 8, w.absmax().data().address());
        to.set(ValueLayout.JAVA_LONG, 16, w.absmax2().data().address());
        to.set(ValueLayout.JAVA_LONG, 24, w.offset().data().address());
        to.set(ValueLayout.JAVA_LONG, 32, p.out(base()));
        to.set(ValueLayout.JAVA_INT, 40, (int) (from / PIECE));
        to.set(ValueLayout.JAVA_INT, 44, (int) ((from + count) / PIECE));
    }

    /** Whether the kernel can dequantize rows, beside {@code like}. */
    private static boolean fits(Rows r, QuantizedTensor like) {
        return r.w.config().nested() && r.w.config().equals(like.config()) && r.first() % PIECE == 0
                && (r.first() + r.elements()) / PIECE <= Integer.MAX_VALUE
                && r.w.packed().data().address() % Integer.BYTES == 0;
    }
}
