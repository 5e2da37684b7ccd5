package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/**
 * Attention of a few rows over many keys, as when decoding with a cache: keys and values are read once, straight
 * through, for all query heads that share them; a score is a dot product along the head. The softmax is online, a tile
 * of keys at a time.
 */
final class VectorDecode {
    private static final int KEYS = VectorAttention.KEYS;
    private static final int QUERIES = 0, TILE = 1, SCORES = 2, SUMS = 3, MAX = 4, TOTAL = 5;

    private final VectorScratch scratch;

    VectorDecode(Team team) {
        this.scratch = new VectorScratch(team, 6);
    }

    /** See {@link VectorAttention}: {@code count} queries from row {@code row}, the first at {@code position}. */
    void block(AttentionShape a, int kvHead, int row, int count, int position, int keys0, Tensor q, Tensor k, Tensor v,
            Tensor out, Tensor lse, int worker) {
        int d = a.headDim();
        int group = VectorAttention.group(a);
        int rows = count * group;
        float[] queries = scratch.get(worker, QUERIES, rows * d);
        float[] tile = scratch.get(worker, TILE, KEYS * d);
        float[] scores = scratch.get(worker, SCORES, rows * KEYS);
        float[] sums = scratch.get(worker, SUMS, rows * d);
        float[] max = scratch.get(worker, MAX, rows);
        float[] total = scratch.get(worker, TOTAL, rows);
        for (int r = 0; r < rows; r++) {
            Floats.load(q, (long) (row + r / group) * q.cols() + (long) (kvHead * group + r % group) * d, d, queries,
                    r * d);
        }
        VectorTile.scale(queries, 0, rows * d, (float) a.scale());
        Arrays.fill(sums, 0, rows * d, 0f);
        Arrays.fill(max, 0, rows, -Float.MAX_VALUE);
        Arrays.fill(total, 0, rows, 0f);
        int end = position + count;
        for (int j0 = ScalarAttention.firstKey(a, position); j0 < end; j0 += KEYS) {
            int keys = Math.min(KEYS, end - j0);
            load(k, keys0 + j0, kvHead, keys, d, tile);
            for (int j = 0; j < keys; j++) {
                for (int r = 0; r < rows; r++) {
                    int p = position + r / group;
                    boolean seen = j0 + j <= p && j0 + j >= ScalarAttention.firstKey(a, p);
                    scores[r * KEYS + j] = seen
                            ? VectorTile.dot(tile, j * d, queries, r * d, d)
                            : Float.NEGATIVE_INFINITY;
                }
            }
            load(v, keys0 + j0, kvHead, keys, d, tile);
            for (int r = 0; r < rows; r++) {
                softmaxStep(scores, r * KEYS, keys, sums, r * d, d, max, total, r);
            }
            for (int j = 0; j < keys; j++) {
                for (int r = 0; r < rows; r++) {
                    VectorTile.addScaled(sums, r * d, scores[r * KEYS + j], tile, j * d, d);
                }
            }
        }
        for (int r = 0; r < rows; r++) {
            int h = kvHead * group + r % group;
            VectorTile.scale(sums, r * d, d, 1 / total[r]);
            Floats.store(sums, r * d, d, out, (long) (row + r / group) * out.cols() + (long) h * d);
            lse.set((long) (row + r / group) * a.heads() + h, max[r] + StrictMath.log(total[r]));
        }
    }

    private static void load(Tensor t, int row, int kvHead, int n, int d, float[] tile) {
        for (int j = 0; j < n; j++) {
            Floats.load(t, (long) (row + j) * t.cols() + (long) kvHead * d, d, tile, j * d);
        }
    }

    /** One row's scores to {@code exp(score - max)}; rescales what was summed under the smaller maximum. */
    private static void softmaxStep(float[] scores, int at, int keys, float[] sums, int sumsAt, int d, float[] max,
            float[] total, int r) {
        float most = max[r];
        for (int j = at; j < at + keys; j++) {
            most = Math.max(most, scores[j]);
        }
        float factor = VectorMath.exp(max[r] - most);
        total[r] = total[r] * factor + exponentials(scores, at, at + keys, most);
        max[r] = most;
        VectorTile.scale(sums, sumsAt, d, factor);
    }

    private static float exponentials(float[] x, int from, int to, float max) {
        FloatVector lanes = FloatVector.zero(Lanes.F);
        int j = from;
        for (; j <= to - Lanes.L; j += Lanes.L) {
            FloatVector e = VectorMath.exp(FloatVector.fromArray(Lanes.F, x, j).sub(max));
            e.intoArray(x, j);
            lanes = lanes.add(e);
        }
        float sum = Lanes.sum(lanes);
        for (; j < to; j++) {
            x[j] = VectorMath.exp(x[j] - max);
            sum += x[j];
        }
        return sum;
    }
}
