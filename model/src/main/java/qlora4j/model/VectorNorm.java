package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** RMSNorm and its gradient: a task is a block of rows; the weight's gradient is summed over blocks in their order. */
final class VectorNorm {
    private static final int ROWS_PER_TASK = 16;

    private final Team team;
    private final VectorScratch scratch;
    private float[] partial = new float[0];

    VectorNorm(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, 4);
    }

    void forward(Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd) {
        int n = x.cols();
        int rows = x.rows();
        team.run(tasks(rows), (task, worker) -> {
            float[] row = scratch.get(worker, 0, n);
            float[] w = scratch.get(worker, 1, n);
            Floats.load(weight, 0, n, w, 0);
            for (int i = task * ROWS_PER_TASK; i < Math.min(rows, (task + 1) * ROWS_PER_TASK); i++) {
                long at = (long) i * n;
                Floats.load(x, at, n, row, 0);
                float r = (float) (1 / Math.sqrt((double) VectorTile.dot(row, 0, row, 0, n) / n + eps));
                rstd.set(i, r);
                VectorTile.scale(row, 0, n, r);
                Floats.round(y.dtype(), row, 0, n);
                multiply(row, w, n);
                Floats.store(row, 0, n, y, at);
            }
        });
    }

    private static int tasks(int rows) {
        return (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    }

    private static void multiply(float[] x, float[] y, int n) {
        int i = 0;
        for (; i <= n - Lanes.L; i += Lanes.L) {
            FloatVector.fromArray(Lanes.F, x, i).mul(FloatVector.fromArray(Lanes.F, y, i)).intoArray(x, i);
        }
        for (; i < n; i++) {
            x[i] *= y[i];
        }
    }

    synchronized void backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual, Tensor dx,
            Tensor dWeight) {
        int n = x.cols();
        int rows = x.rows();
        int tasks = tasks(rows);
        if (dWeight != null) {
            clearPartial(Math.multiplyExact(tasks, n));
        }
        float[] sums = partial;
        team.run(tasks, (task, worker) -> {
            float[] g = scratch.get(worker, 0, n);
            float[] w = scratch.get(worker, 1, n);
            float[] row = scratch.get(worker, 2, n);
            float[] other = scratch.get(worker, 3, n);
            Floats.load(weight, 0, n, w, 0);
            Arrays.fill(other, 0, n, 0f);
            for (int i = task * ROWS_PER_TASK; i < Math.min(rows, (task + 1) * ROWS_PER_TASK); i++) {
                long at = (long) i * n;
                float r = (float) rstd.get(i);
                Floats.load(dy, at, n, g, 0);
                Floats.load(x, at, n, row, 0);
                if (residual != null) {
                    Floats.load(residual, at, n, other, 0);
                }
                if (dWeight != null) {
                    addProduct(sums, task * n, g, row, r, n);
                }
                multiply(g, w, n);
                float mean = VectorTile.dot(g, 0, row, 0, n) / n;
                combine(other, g, row, r, r * r * mean, n);
                Floats.store(g, 0, n, dx, at);
            }
        });
        if (dWeight != null) {
            addPartials(tasks, n, dWeight);
        }
    }

    private void clearPartial(int length) {
        if (partial.length < length) {
            partial = new float[length];
        }
        Arrays.fill(partial, 0, length, 0f);
    }

    /** {@code dWeight += Σ partial[task]}, in the order of tasks, in double. */
    private void addPartials(int tasks, int n, Tensor dWeight) {
        for (int c = 0; c < n; c++) {
            double sum = 0;
            for (int task = 0; task < tasks; task++) {
                sum += partial[task * n + c];
            }
            dWeight.set(c, dWeight.get(c) + sum);
        }
    }

    /** {@code sum[at + c] += dy·x·r}. */
    private static void addProduct(float[] sum, int at, float[] dy, float[] x, float r, int n) {
        int c = 0;
        for (; c <= n - Lanes.L; c += Lanes.L) {
            FloatVector product = FloatVector.fromArray(Lanes.F, dy, c).mul(FloatVector.fromArray(Lanes.F, x, c));
            product.mul(r).add(FloatVector.fromArray(Lanes.F, sum, at + c)).intoArray(sum, at + c);
        }
        for (; c < n; c++) {
            sum[at + c] += dy[c] * x[c] * r;
        }
    }

    /** {@code g = other + r·(g - x·factor)}. */
    private static void combine(float[] other, float[] g, float[] x, float r, float factor, int n) {
        int c = 0;
        for (; c <= n - Lanes.L; c += Lanes.L) {
            FloatVector inner = FloatVector.fromArray(Lanes.F, g, c)
                    .sub(FloatVector.fromArray(Lanes.F, x, c).mul(factor));
            inner.mul(r).add(FloatVector.fromArray(Lanes.F, other, c)).intoArray(g, c);
        }
        for (; c < n; c++) {
            g[c] = (g[c] - x[c] * factor) * r + other[c];
        }
    }
}
