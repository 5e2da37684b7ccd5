package qlora4j.model;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/**
 * Attention of one query of each sequence, as in decoding: keys and values are read where they lie, in their order. A
 * task is a piece of a sequence's keys for all heads; what the pieces give is put together afterwards in their order,
 * each scaled from its own maximum to that of all (Dao et al. 2023, "Flash-Decoding"). Scores and values are two loops of
 * the team: in one the compiler would stop inlining inside the exponential, and make vectors on the heap.
 */
final class VectorAttentionOne {
    /** Keys of a task: few enough that a short text is shared by the team. */
    static final int KEYS = 32;
    private static final int L = Lanes.L;
    /** Keys whose products are summed at once. */
    private static final int SHARED = 4;

    private static final int QUERIES = 0, LANES = 1, SLOTS = 2;

    private final Team team;
    private final VectorScratch scratch;
    /** Of each piece and head: {@link #KEYS} scores, then their exponentials. */
    private float[] scores = new float[0];
    /** Of each piece and head: the sums of its values, the largest score, the sum of the exponentials. */
    private float[] partial = new float[0];

    VectorAttentionOne(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, SLOTS);
    }

    /** Whether a call is one of these: float32, one query a sequence, heads of whole vectors. */
    static boolean takes(AttentionShape a, Tensor q, Tensor k, Tensor cuQ) {
        if (q.dtype() != DType.F32 || k.dtype() != DType.F32 || a.headDim() % L != 0) {
            return false;
        }
        for (int s = 0; s < cuQ.size(); s++) {
            if (ScalarDecoder.integer(cuQ, s) != s) {
                return false;
            }
        }
        return true;
    }

    private static int firstKey(AttentionShape a, Tensor kvLen, int s) {
        return ScalarAttention.firstKey(a, ScalarDecoder.integer(kvLen, s) - 1);
    }

    private static int pieces(AttentionShape a, Tensor kvLen, int s) {
        return Math.ceilDiv(ScalarDecoder.integer(kvLen, s) - firstKey(a, kvLen, s), KEYS);
    }

    synchronized void forward(AttentionShape a, Tensor q, Tensor k, Tensor v, Tensor kvStart, Tensor kvLen, Tensor out,
            Tensor lse) {
        int pieces = 0;
        for (int s = 0; s < kvLen.size(); s++) {
            pieces += pieces(a, kvLen, s);
        }
        int needed = Math.multiplyExact(pieces * a.heads(), a.headDim() + 2);
        if (partial.length < needed) {
            partial = new float[needed];
        }
        if (scores.length < pieces * a.heads() * KEYS) {
            scores = new float[pieces * a.heads() * KEYS];
        }
        team.run(pieces, (piece, worker) -> scores(a, piece(a, kvStart, kvLen, piece), q, k,
                piece * a.heads() * KEYS, worker));
        team.run(pieces, (piece, worker) -> values(a, piece(a, kvStart, kvLen, piece), v, piece * a.heads()));
        for (int s = 0, piece = 0; s < kvLen.size(); s++) {
            int count = pieces(a, kvLen, s);
            for (int h = 0; h < a.heads(); h++) {
                combine(a, s, h, piece, count, out, lse);
            }
            piece += count;
        }
    }

    /** Keys of a sequence: those of {@code keys} rows of the cache from {@code row} on. */
    private record Piece(int sequence, int row, int keys) {
    }

    private static Piece piece(AttentionShape a, Tensor kvStart, Tensor kvLen, int piece) {
        int s = 0;
        int of = piece;
        while (of >= pieces(a, kvLen, s)) {
            of -= pieces(a, kvLen, s++);
        }
        int from = firstKey(a, kvLen, s) + of * KEYS;
        return new Piece(s, ScalarDecoder.integer(kvStart, s) + from,
                Math.min(KEYS, ScalarDecoder.integer(kvLen, s) - from));
    }

    private static int group(AttentionShape a) {
        return a.heads() / a.kvHeads();
    }

    private void scores(AttentionShape a, Piece piece, Tensor q, Tensor k, int to, int worker) {
        int n = a.heads() * a.headDim();
        float[] queries = scratch.get(worker, QUERIES, n);
        float[] lanes = scratch.get(worker, LANES, a.heads() * KEYS * L);
        Lanes.load(q.data(), DType.F32.bytes((long) piece.sequence * q.cols()), n, queries, 0);
        VectorTile.scale(queries, 0, n, (float) a.scale());
        long stride = DType.F32.bytes(k.cols());
        products(k.data(), piece.row * stride, stride, piece.keys, queries, a.headDim(), group(a), a.heads(), lanes);
        for (int h = 0; h < a.heads(); h++) {
            Lanes.sums(lanes, h * KEYS * L, piece.keys, scores, to + h * KEYS);
        }
    }

    private void values(AttentionShape a, Piece piece, Tensor v, int first) {
        int d = a.headDim();
        int whole = VectorScratch.roundUp(piece.keys, L);
        long stride = DType.F32.bytes(v.cols());
        for (int h = 0; h < a.heads(); h++) {
            int from = (first + h) * KEYS;
            int to = (first + h) * (d + 2);
            Arrays.fill(scores, from + piece.keys, from + whole, Float.NEGATIVE_INFINITY);
            partial[to + d] = max(scores, from, whole);
            partial[to + d + 1] = exponentials(scores, from, whole, partial[to + d]);
            long at = piece.row * stride + DType.F32.bytes((long) (h / group(a)) * d);
            int c = 0;
            for (; c <= d - 4 * L; c += 4 * L) {
                values4(v.data(), at + 4L * c, stride, piece.keys, scores, from, partial, to + c);
            }
            for (; c < d; c += L) {
                values(v.data(), at + 4L * c, stride, piece.keys, scores, from, partial, to + c);
            }
        }
    }

    /**
     * {@code q·k} of {@code n} keys and all heads, a sum for each lane, of head h and key j in
     * {@code lanes[(h·KEYS + j)·L …]}. Of each quarter of the keys one is read, so that the processor fetches ahead in four
     * places; the last key may be computed several times.
     */
    private static void products(MemorySegment k, long at, long stride, int n, float[] q, int d, int group, int heads,
            float[] lanes) {
        int quarter = Math.ceilDiv(n, SHARED);
        for (int j = 0; j < quarter; j++) {
            int j1 = Math.min(j + quarter, n - 1), j2 = Math.min(j + 2 * quarter, n - 1);
            int j3 = Math.min(j + 3 * quarter, n - 1);
            for (int h = 0; h < heads; h++) {
                FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
                long from = at + 4L * (h / group) * d;
                for (int c = 0; c < d; c += L) {
                    FloatVector x = FloatVector.fromArray(Lanes.F, q, h * d + c);
                    s0 = FloatVector.fromMemorySegment(Lanes.F, k, from + j * stride + 4L * c, ByteOrder.LITTLE_ENDIAN)
                            .fma(x,
                                    s0);
                    s1 = FloatVector.fromMemorySegment(Lanes.F, k, from + j1 * stride + 4L * c, ByteOrder.LITTLE_ENDIAN)
                            .fma(x,
                                    s1);
                    s2 = FloatVector.fromMemorySegment(Lanes.F, k, from + j2 * stride + 4L * c, ByteOrder.LITTLE_ENDIAN)
                            .fma(x,
                                    s2);
                    s3 = FloatVector.fromMemorySegment(Lanes.F, k, from + j3 * stride + 4L * c, ByteOrder.LITTLE_ENDIAN)
                            .fma(x,
                                    s3);
                }
                int to = h * KEYS;
                s0.intoArray(lanes, (to + j) * L);
                s1.intoArray(lanes, (to + j1) * L);
                s2.intoArray(lanes, (to + j2) * L);
                s3.intoArray(lanes, (to + j3) * L);
            }
        }
    }

    private static float max(float[] scores, int from, int n) {
        float max = -Float.MAX_VALUE;
        for (int j = from; j < from + n; j++) {
            max = Math.max(max, scores[j]);
        }
        return max;
    }

    /** Scores to {@code exp(score - max)}; their sum. */
    private static float exponentials(float[] scores, int from, int n, float max) {
        FloatVector sum = FloatVector.zero(Lanes.F);
        for (int j = from; j < from + n; j += L) {
            FloatVector p = VectorMath.exp(FloatVector.fromArray(Lanes.F, scores, j).sub(max));
            p.intoArray(scores, j);
            sum = sum.add(p);
        }
        return Lanes.sum(sum);
    }

    /**
     * {@code Σ p[j]·v[j]} over {@code n} values, of four vectors of a head's elements. The reads are no method of their own:
     * at 128 bits the compiler left that uninlined, and a token made 17 MB of vectors on the heap.
     */
    private static void values4(MemorySegment v, long at, long stride, int n, float[] p, int from, float[] to,
            int o) {
        FloatVector s0 = FloatVector.zero(Lanes.F), s1 = s0, s2 = s0, s3 = s0;
        for (int j = 0; j < n; j++, at += stride) {
            FloatVector x = FloatVector.broadcast(Lanes.F, p[from + j]);
            s0 = FloatVector.fromMemorySegment(Lanes.F, v, at, ByteOrder.LITTLE_ENDIAN).fma(x,
                    s0);
            s1 = FloatVector.fromMemorySegment(Lanes.F, v, at + 4L * L, ByteOrder.LITTLE_ENDIAN).fma(x,
                    s1);
            s2 = FloatVector.fromMemorySegment(Lanes.F, v, at + 8L * L, ByteOrder.LITTLE_ENDIAN).fma(x,
                    s2);
            s3 = FloatVector.fromMemorySegment(Lanes.F, v, at + 12L * L, ByteOrder.LITTLE_ENDIAN).fma(x,
                    s3);
        }
        s0.intoArray(to, o);
        s1.intoArray(to, o + L);
        s2.intoArray(to, o + 2 * L);
        s3.intoArray(to, o + 3 * L);
    }

    /** The same of one vector. */
    private static void values(MemorySegment v, long at, long stride, int n, float[] p, int from, float[] to,
            int o) {
        FloatVector s = FloatVector.zero(Lanes.F);
        for (int j = 0; j < n; j++, at += stride) {
            s = FloatVector.fromMemorySegment(Lanes.F, v, at, ByteOrder.LITTLE_ENDIAN)
                    .fma(FloatVector.broadcast(Lanes.F, p[from + j]), s);
        }
        s.intoArray(to, o);
    }

    /** Puts {@code count} pieces of a head together, in the first one's place. */
    private void combine(AttentionShape a, int s, int h, int piece, int count, Tensor out, Tensor lse) {
        int d = a.headDim();
        int first = (piece * a.heads() + h) * (d + 2);
        int step = a.heads() * (d + 2);
        float max = -Float.MAX_VALUE;
        for (int i = 0; i < count; i++) {
            max = Math.max(max, partial[first + i * step + d]);
        }
        float total = 0;
        for (int i = 0, p = first; i < count; i++, p += step) {
            float factor = VectorMath.exp(partial[p + d] - max);
            total = Math.fma(partial[p + d + 1], factor, total);
            if (i == 0) {
                VectorTile.scale(partial, p, d, factor);
            } else {
                VectorTile.addScaled(partial, first, factor, partial, p, d);
            }
        }
        VectorTile.scale(partial, first, d, 1 / total);
        Floats.store(partial, first, d, out, (long) s * out.cols() + (long) h * d);
        lse.set((long) s * a.heads() + h, max + StrictMath.log(total));
    }
}
