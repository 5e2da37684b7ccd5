package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorTranspose;

/**
 * The gradient of attention in tiles laid out as in {@link VectorAttention}. A task is one kv head of one sequence with
 * all query heads that share it: its keys' and values' gradients are summed over query blocks in their order, in
 * float32, and rounded to the tensor's type once.
 */
final class VectorAttentionBackward {
    private static final int KEYS = VectorAttention.KEYS;
    private static final int QUERIES = 0, QUERIES_T = 1, D_OUT = 2, D_OUT_T = 3, K_TILE = 4, V_TILE = 5, P = 6, DS = 7,
            DQ = 8, DK = 9, DV = 10, LSE = 11, DELTA = 12, HEAD = 13, SLOTS = 14;

    private final Team team;
    private final VectorScratch scratch;
    private final VectorTranspose[] transposes;

    VectorAttentionBackward(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, SLOTS);
        this.transposes = VectorAttention.transposes(team);
    }

    /** What a call gets and gives; see {@link DecoderKernels#attentionBackward}. */
    record Call(AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor cu,
            Tensor dq, Tensor dk, Tensor dv) {
    }

    void run(Call call) {
        int kvHeads = call.shape.kvHeads();
        team.run(Math.toIntExact((call.cu.size() - 1) * kvHeads), (task, worker) -> {
            int s = task / kvHeads;
            int from = ScalarDecoder.integer(call.cu, s);
            kvHead(call, task % kvHeads, from, ScalarDecoder.integer(call.cu, s + 1) - from, worker);
        });
    }

    private void kvHead(Call call, int kvHead, int from, int length, int worker) {
        AttentionShape a = call.shape;
        int d = a.headDim();
        int dims = VectorScratch.roundUp(d, VectorTile.COLUMNS);
        int queries = VectorAttention.queriesPerBlock(a);
        int pitch = pitch(a, dims);
        int keyRows = VectorScratch.roundUp(length, VectorTile.ROWS);
        float[] dk = scratch.get(worker, DK, keyRows * pitch);
        float[] dv = scratch.get(worker, DV, keyRows * pitch);
        Arrays.fill(dk, 0, keyRows * pitch, 0f);
        Arrays.fill(dv, 0, keyRows * pitch, 0f);
        for (int i = 0; i < length; i += queries) {
            queryBlock(call, kvHead, from, i, Math.min(queries, length - i), dk, dv, worker);
        }
        for (int j = 0; j < length; j++) {
            long to = (long) (from + j) * call.k.cols() + (long) kvHead * d;
            Floats.store(dk, j * pitch, d, call.dk, to);
            Floats.store(dv, j * pitch, d, call.dv, to);
        }
    }

    private static int pitch(AttentionShape a, int dims) {
        int rows = VectorAttention.queriesPerBlock(a) * VectorAttention.group(a);
        return VectorTile.pitch(Math.max(VectorScratch.roundUp(rows, VectorTile.COLUMNS), dims));
    }

    /** Adds what {@code count} queries from {@code position} on give to their keys and values, and writes their dq. */
    private void queryBlock(Call call, int kvHead, int from, int position, int count, float[] dk, float[] dv,
            int worker) {
        AttentionShape a = call.shape;
        int d = a.headDim();
        int group = VectorAttention.group(a);
        int rows = count * group;
        int lanes = VectorScratch.roundUp(rows, VectorTile.COLUMNS);
        int dims = VectorScratch.roundUp(d, VectorTile.COLUMNS);
        int pitch = pitch(a, dims);
        int row = from + position;
        float scale = (float) a.scale();
        float[] head = scratch.get(worker, HEAD, d);
        float[] queries = scratch.get(worker, QUERIES, lanes * pitch);
        float[] queriesT = scratch.get(worker, QUERIES_T, dims * pitch);
        float[] dOut = scratch.get(worker, D_OUT, lanes * pitch);
        float[] dOutT = scratch.get(worker, D_OUT_T, dims * pitch);
        VectorAttention.loadRows(call.q, row, kvHead, count, group, d, scale, queries, dims, lanes, pitch);
        VectorAttention.loadRows(call.dOut, row, kvHead, count, group, d, 1, dOut, dims, lanes, pitch);
        transposes[worker].run(queries, 0, pitch, lanes, d, queriesT, 0, pitch);
        transposes[worker].run(dOut, 0, pitch, lanes, d, dOutT, 0, pitch);
        float[] lse = scratch.get(worker, LSE, lanes);
        float[] delta = scratch.get(worker, DELTA, lanes);
        loadStatistics(call, row, kvHead, rows, lanes, dOut, pitch, head, lse, delta);

        float[] dq = scratch.get(worker, DQ, VectorScratch.roundUp(rows, VectorTile.ROWS) * pitch);
        Arrays.fill(dq, 0, VectorScratch.roundUp(rows, VectorTile.ROWS) * pitch, 0f);
        int end = position + count;
        // Tiles begin with whole tiles of the sums of dk and dv.
        int first = ScalarAttention.firstKey(a, position) / VectorTile.ROWS * VectorTile.ROWS;
        for (int j = first; j < end; j += KEYS) {
            keyBlock(call, kvHead, from, position, count, j, Math.min(KEYS, end - j), dq, dk, dv, worker);
        }
        for (int r = 0; r < rows; r++) {
            VectorTile.scale(dq, r * pitch, d, scale);
            Floats.store(dq, r * pitch, d, call.dq, element(a, call.dq, row, kvHead, r));
        }
    }

    /**
     * What these queries and the keys from {@code j} on give to each other's gradients. It is compiled apart from what
     * surrounds it, so that the compiler can inline all of it: what is left out makes its vectors on the heap.
     */
    private void keyBlock(Call call, int kvHead, int from, int position, int count, int j, int keys, float[] dq,
            float[] dk, float[] dv, int worker) {
        AttentionShape a = call.shape;
        int d = a.headDim();
        int group = VectorAttention.group(a);
        int rows = count * group;
        int lanes = VectorScratch.roundUp(rows, VectorTile.COLUMNS);
        int dims = VectorScratch.roundUp(d, VectorTile.COLUMNS);
        int outRows = VectorScratch.roundUp(rows, VectorTile.ROWS);
        int pitch = pitch(a, dims);
        float[] queries = scratch.get(worker, QUERIES, lanes * pitch);
        float[] queriesT = scratch.get(worker, QUERIES_T, dims * pitch);
        float[] dOut = scratch.get(worker, D_OUT, lanes * pitch);
        float[] dOutT = scratch.get(worker, D_OUT_T, dims * pitch);
        float[] lse = scratch.get(worker, LSE, lanes);
        float[] delta = scratch.get(worker, DELTA, lanes);
        float[] kTile = scratch.get(worker, K_TILE, KEYS * pitch);
        float[] vTile = scratch.get(worker, V_TILE, KEYS * pitch);
        float[] p = scratch.get(worker, P, KEYS * pitch);
        float[] ds = scratch.get(worker, DS, KEYS * pitch);
        int keyRows = VectorScratch.roundUp(keys, VectorTile.ROWS);
        VectorAttention.loadKeys(call.k, from + j, kvHead, keys, d, kTile, dims, pitch);
        VectorAttention.loadKeys(call.v, from + j, kvHead, keys, d, vTile, dims, pitch);
        VectorAttention.scores(kTile, queriesT, p, lanes, pitch, keys, j - position, group, d);
        VectorAttention.mask(a, p, pitch, j, keys, position, count, group);
        VectorAttention.scores(vTile, dOutT, ds, lanes, pitch, keys, j - position, group, d);
        for (int key = 0; key < keys; key++) {
            int at = VectorAttention.firstRow(j + key - position, group, lanes) / Lanes.L * Lanes.L;
            Arrays.fill(p, key * pitch, key * pitch + at, 0f);
            Arrays.fill(ds, key * pitch, key * pitch + at, 0f);
            scoreGradients(p, ds, key * pitch, at, lanes, lse, delta);
        }
        Arrays.fill(p, keys * pitch, keyRows * pitch, 0f);
        Arrays.fill(ds, keys * pitch, keyRows * pitch, 0f);
        for (int i = 0; i < keyRows; i += VectorTile.ROWS) {
            int r = VectorAttention.firstRow(j + i - position, group, rows);
            int to = (j + i) * pitch;
            VectorTile.rows(p, i * pitch + r, dOut, r * pitch, dv, to, pitch, dims, rows - r, true);
            VectorTile.rows(ds, i * pitch + r, queries, r * pitch, dk, to, pitch, dims, rows - r, true);
        }
        for (int r = 0; r < outRows; r += VectorTile.ROWS) {
            int seen = VectorAttention.seen(r + VectorTile.ROWS - 1, group, position - j, keys);
            VectorTile.columns(ds, r, kTile, 0, dq, r * pitch, pitch, dims, seen, true);
        }
    }

    private static long element(AttentionShape a, Tensor t, int row, int kvHead, int r) {
        int group = VectorAttention.group(a);
        return (long) (row + r / group) * t.cols() + (long) (kvHead * group + r % group) * a.headDim();
    }

    /** Each row's log-sum-exp and {@code delta = Σ dOut·out}; 0 beyond the last row. */
    private static void loadStatistics(Call call, int row, int kvHead, int rows, int lanes, float[] dOut, int pitch,
            float[] head, float[] lse, float[] delta) {
        AttentionShape a = call.shape;
        int group = VectorAttention.group(a);
        for (int r = 0; r < lanes; r++) {
            lse[r] = 0;
            delta[r] = 0;
            if (r < rows) {
                Floats.load(call.out, element(a, call.out, row, kvHead, r), a.headDim(), head, 0);
                delta[r] = VectorTile.dot(dOut, r * pitch, head, 0, a.headDim());
                lse[r] = (float) call.lse.get((long) (row + r / group) * a.heads() + kvHead * group + r % group);
            }
        }
    }

    /** One key's scores, from row {@code first} on, to probabilities {@code p}, and dP to {@code p·(dP - delta)}. */
    private static void scoreGradients(float[] p, float[] ds, int at, int first, int lanes, float[] lse,
            float[] delta) {
        for (int r = first; r < lanes; r += Lanes.L) {
            FloatVector x = FloatVector.fromArray(Lanes.F, p, at + r);
            FloatVector probability = VectorMath.exp(x.sub(FloatVector.fromArray(Lanes.F, lse, r)));
            FloatVector dp = FloatVector.fromArray(Lanes.F, ds, at + r);
            probability.intoArray(p, at + r);
            probability.mul(dp.sub(FloatVector.fromArray(Lanes.F, delta, r))).intoArray(ds, at + r);
        }
    }
}
