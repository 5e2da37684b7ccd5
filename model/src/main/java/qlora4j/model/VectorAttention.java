package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorTranspose;

/**
 * Attention in tiles with the online softmax (Dao et al. 2022). A task is a block of queries of one sequence with all
 * query heads that share a kv head: its rows are (query, head of the group). Scores are kept transposed, a row per key,
 * so that the lanes run over the task's rows: maxima, sums and exponentials need no reduction across lanes, and K and V
 * are read as they lie. Single queries (decoding) are {@link VectorAttentionOne}'s. Blocks depend on shapes alone, never
 * on the number of threads.
 */
final class VectorAttention {
    /** Rows of a task: about this many (query, head) pairs. */
    static final int ROWS = 128;
    /** Keys of a tile. */
    static final int KEYS = 64;

    private static final int QUERIES_T = 0, TILE = 1, SCORES = 2, SUMS = 3, MAX = 4, TOTAL = 5, HEADS = 6, SLOTS = 7;

    private final Team team;
    private final VectorScratch scratch;
    private final VectorTranspose[] transposes;
    private final VectorAttentionOne one;

    VectorAttention(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, SLOTS);
        this.transposes = transposes(team);
        this.one = new VectorAttentionOne(team);
    }

    /** One for each thread. */
    static VectorTranspose[] transposes(Team team) {
        VectorTranspose[] t = new VectorTranspose[team.size()];
        Arrays.setAll(t, worker -> new VectorTranspose());
        return t;
    }

    void forward(AttentionShape a, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor out,
            Tensor lse) {
        if (VectorAttentionOne.takes(a, q, k, cuQ)) {
            one.forward(a, q, k, v, kvStart, kvLen, out, lse);
            return;
        }
        int queries = queriesPerBlock(a);
        int blocks = 0;
        for (int s = 0; s < kvStart.size(); s++) {
            blocks += blocks(cuQ, s, queries);
        }
        int last = blocks * a.kvHeads() - 1;
        // The blocks at the end see the most keys: they go first, so that no thread is left alone with one.
        team.run(last + 1, (task, worker) -> {
            int block = (last - task) / a.kvHeads();
            int s = 0;
            while (block >= blocks(cuQ, s, queries)) {
                block -= blocks(cuQ, s++, queries);
            }
            int q0 = ScalarDecoder.integer(cuQ, s);
            int qLen = ScalarDecoder.integer(cuQ, s + 1) - q0;
            int from = block * queries;
            int count = Math.min(queries, qLen - from);
            int position = ScalarDecoder.integer(kvLen, s) - qLen + from;
            int kvHead = (last - task) % a.kvHeads();
            int keys0 = ScalarDecoder.integer(kvStart, s);
            block(a, kvHead, q0 + from, count, position, keys0, q, k, v, out, lse, worker);
        });
    }

    static int group(AttentionShape a) {
        return a.heads() / a.kvHeads();
    }

    static int queriesPerBlock(AttentionShape a) {
        return Math.max(1, ROWS / group(a));
    }

    private static int blocks(Tensor cuQ, int s, int queries) {
        return (ScalarDecoder.integer(cuQ, s + 1) - ScalarDecoder.integer(cuQ, s) + queries - 1) / queries;
    }

    /** {@code count} queries from row {@code row}, the first at {@code position}; the keys begin at row {@code keys0}. */
    private void block(AttentionShape a, int kvHead, int row, int count, int position, int keys0, Tensor q, Tensor k,
            Tensor v, Tensor out, Tensor lse, int worker) {
        int d = a.headDim();
        int group = group(a);
        int rows = count * group;
        int lanes = VectorScratch.roundUp(rows, VectorTile.COLUMNS);
        int dims = VectorScratch.roundUp(d, VectorTile.COLUMNS);
        int pitch = VectorTile.pitch(Math.max(lanes, dims));
        int outRows = VectorScratch.roundUp(rows, VectorTile.ROWS);
        float[] heads = scratch.get(worker, HEADS, lanes * pitch);
        float[] queries = scratch.get(worker, QUERIES_T, dims * pitch);
        loadRows(q, row, kvHead, count, group, d, (float) a.scale(), heads, dims, lanes, pitch);
        transposes[worker].run(heads, 0, pitch, lanes, d, queries, 0, pitch);
        float[] tile = scratch.get(worker, TILE, KEYS * pitch);
        float[] scores = scratch.get(worker, SCORES, (KEYS + 1) * pitch);
        float[] sums = scratch.get(worker, SUMS, outRows * pitch);
        float[] max = scratch.get(worker, MAX, lanes);
        float[] total = scratch.get(worker, TOTAL, lanes);
        Arrays.fill(sums, 0, outRows * pitch, 0f);
        Arrays.fill(max, 0, lanes, -Float.MAX_VALUE);
        Arrays.fill(total, 0, lanes, 0f);
        int end = position + count;
        for (int j = ScalarAttention.firstKey(a, position); j < end; j += KEYS) {
            int keys = Math.min(KEYS, end - j);
            loadKeys(k, keys0 + j, kvHead, keys, d, tile, dims, pitch);
            scores(tile, queries, scores, lanes, pitch, keys, j - position, group, d);
            mask(a, scores, pitch, j, keys, position, count, group);
            for (int at = 0; at < lanes; at += Lanes.L) {
                int seen = seen(at + Lanes.L - 1, group, position - j, keys);
                softmaxStep(scores, at, pitch, seen, keys, max, total);
            }
            loadKeys(v, keys0 + j, kvHead, keys, d, tile, dims, pitch);
            for (int r = 0; r < rows; r++) {
                VectorTile.scale(sums, r * pitch, dims, scores[keys * pitch + r]);
            }
            for (int r = 0; r < outRows; r += VectorTile.ROWS) {
                int seen = seen(r + VectorTile.ROWS - 1, group, position - j, keys);
                VectorTile.columns(scores, r, tile, 0, sums, r * pitch, pitch, dims, seen, true);
            }
        }
        for (int r = 0; r < rows; r++) {
            VectorTile.scale(sums, r * pitch, d, 1 / total[r]);
            int h = kvHead * group + r % group;
            Floats.store(sums, r * pitch, d, out, (long) (row + r / group) * out.cols() + (long) h * d);
            lse.set((long) (row + r / group) * a.heads() + h, max[r] + StrictMath.log(total[r]));
        }
    }

    /**
     * {@code S = K·Qᵀ} of a tile's keys and a block's rows, a key a row of S. Columns of S that hold only queries before
     * all of the keys computed at once are left as they are.
     *
     * @param ahead of how many queries of the block the tile's first key comes; negative where it is before them
     */
    static void scores(float[] tile, float[] queries, float[] s, int lanes, int pitch, int keys, int ahead, int group,
            int d) {
        for (int i = 0; i < keys; i += VectorTile.ROWS) {
            int first = firstRow(ahead + i, group, lanes) / VectorTile.COLUMNS * VectorTile.COLUMNS;
            VectorTile.rows(tile, i * pitch, queries, first, s, i * pitch + first, pitch, lanes - first, d, false);
        }
    }

    /** The first of a block's rows whose query sees the key of query {@code key}, at most {@code rows}. */
    static int firstRow(int key, int group, int rows) {
        return Math.clamp((long) key * group, 0, rows);
    }

    /** How many of a tile's keys row r of the block sees, the block's first query seeing {@code before} and itself. */
    static int seen(int r, int group, int before, int keys) {
        return Math.clamp(r / group + before + 1L, 0, keys);
    }

    /**
     * Reads the heads of a block's rows (query, head of the group), {@code to[r * pitch + c] = factor·t[row r][c]}, zero
     * beyond their last element up to {@code dims} and from the last row to {@code lanes}.
     */
    static void loadRows(Tensor t, int row, int kvHead, int count, int group, int d, float factor, float[] to,
            int dims, int lanes, int pitch) {
        int rows = count * group;
        for (int r = 0; r < rows; r++) {
            int h = kvHead * group + r % group;
            Floats.load(t, (long) (row + r / group) * t.cols() + (long) h * d, d, to, r * pitch);
            Arrays.fill(to, r * pitch + d, r * pitch + dims, 0f);
            if (factor != 1) {
                VectorTile.scale(to, r * pitch, d, factor);
            }
        }
        for (int r = rows; r < lanes; r++) {
            Arrays.fill(to, r * pitch, r * pitch + dims, 0f);
        }
    }

    /** Reads one head of {@code n} rows from {@code row}, to a multiple of a tile's, zero beyond rows and columns. */
    static void loadKeys(Tensor t, int row, int kvHead, int n, int d, float[] tile, int dims, int pitch) {
        for (int j = 0; j < n; j++) {
            Floats.load(t, (long) (row + j) * t.cols() + (long) kvHead * d, d, tile, j * pitch);
            Arrays.fill(tile, j * pitch + d, j * pitch + dims, 0f);
        }
        Arrays.fill(tile, n * pitch, VectorScratch.roundUp(n, VectorTile.ROWS) * pitch, 0f);
    }

    /** Scores of keys that a query does not see become -∞. Key {@code j0 + j} is in row j. */
    static void mask(AttentionShape a, float[] scores, int pitch, int j0, int keys, int position, int count,
            int group) {
        for (int j = 0; j < keys; j++) {
            int first = Math.clamp(j0 + j - position, 0, count);
            int end = a.window() == 0 ? count : Math.clamp((long) j0 + j - position + a.window(), first, count);
            Arrays.fill(scores, j * pitch, j * pitch + first * group, Float.NEGATIVE_INFINITY);
            Arrays.fill(scores, j * pitch + end * group, j * pitch + count * group, Float.NEGATIVE_INFINITY);
        }
    }

    /**
     * Scores of one vector of rows to {@code exp(score - max)}, and their totals. The maximum so far is one more score, so
     * that there is one place that takes exponentials, which the compiler inlines: row {@code keys} becomes the factor of
     * all that was summed before.
     *
     * @param seen how many of the keys these rows see
     */
    private static void softmaxStep(float[] scores, int at, int pitch, int seen, int keys, float[] max,
            float[] total) {
        FloatVector most = FloatVector.fromArray(Lanes.F, max, at);
        most.intoArray(scores, keys * pitch + at);
        for (int j = 0; j < seen; j++) {
            most = most.max(FloatVector.fromArray(Lanes.F, scores, j * pitch + at));
        }
        FloatVector sum = FloatVector.zero(Lanes.F);
        FloatVector weight = FloatVector.fromArray(Lanes.F, total, at);
        for (int j = seen; j >= 0; j--) {
            int row = (j == seen ? keys : j) * pitch + at;
            FloatVector p = VectorMath.exp(FloatVector.fromArray(Lanes.F, scores, row).sub(most));
            p.intoArray(scores, row);
            sum = p.fma(weight, sum);
            weight = FloatVector.broadcast(Lanes.F, 1f);
        }
        sum.intoArray(total, at);
        most.intoArray(max, at);
    }
}
