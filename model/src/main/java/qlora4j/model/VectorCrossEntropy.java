package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** Cross-entropy and its gradient, a row of logits a task; a row's exponentials are summed by pieces, these in double. */
final class VectorCrossEntropy {
    /** Logits whose exponentials are summed in float32. */
    private static final int PIECE = 1024;

    private final Team team;
    private final VectorScratch scratch;

    VectorCrossEntropy(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, 1);
    }

    void run(Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss, boolean gradient) {
        int n = logits.cols();
        int rows = Math.toIntExact(labels.size());
        double factor = scale.get(0);
        team.run(rows, (i, worker) -> {
            float[] row = scratch.get(worker, 0, n);
            long at = (long) i * n;
            int label = ScalarDecoder.label(labels, i, n);
            if (label == ScalarDecoder.IGNORED) {
                nll.set(i, 0);
                Arrays.fill(row, 0, n, 0f);
            } else {
                Floats.load(logits, at, n, row, 0);
                float max = max(row, n);
                double target = row[label];
                double sum = exponentials(row, n, max);
                nll.set(i, max - target + StrictMath.log(sum));
                if (gradient) {
                    VectorTile.scale(row, 0, n, (float) (factor / sum));
                    row[label] -= (float) factor;
                }
            }
            if (gradient) {
                Floats.store(row, 0, n, logits, at);
            }
        });
        for (int i = 0; i < rows; i++) {
            loss.set(0, loss.get(0) + factor * nll.get(i));
        }
    }

    private static float max(float[] x, int n) {
        FloatVector most = FloatVector.broadcast(Lanes.F, Float.NEGATIVE_INFINITY);
        int i = 0;
        for (; i <= n - Lanes.L; i += Lanes.L) {
            most = most.max(FloatVector.fromArray(Lanes.F, x, i));
        }
        float max = Float.NEGATIVE_INFINITY;
        for (int lane = 0; lane < Lanes.L; lane++) {
            max = Math.max(max, most.lane(lane));
        }
        for (; i < n; i++) {
            max = Math.max(max, x[i]);
        }
        return max;
    }

    /** Replaces x by {@code exp(x - max)} and returns the sum. */
    private static double exponentials(float[] x, int n, float max) {
        double sum = 0;
        for (int from = 0; from < n; from += PIECE) {
            sum += exponentials(x, from, Math.min(from + PIECE, n), max);
        }
        return sum;
    }

    private static float exponentials(float[] x, int from, int to, float max) {
        FloatVector lanes = FloatVector.zero(Lanes.F);
        int i = from;
        for (; i <= to - Lanes.L; i += Lanes.L) {
            FloatVector e = VectorMath.exp(FloatVector.fromArray(Lanes.F, x, i).sub(max));
            e.intoArray(x, i);
            lanes = lanes.add(e);
        }
        float sum = Lanes.sum(lanes);
        for (; i < to; i++) {
            x[i] = VectorMath.exp(x[i] - max);
            sum += x[i];
        }
        return sum;
    }
}
