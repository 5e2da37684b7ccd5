package qlora4j.lora;

import jdk.incubator.vector.FloatVector;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** {@link DoraKernels} in float32 over the team: rows of the weight, or blocks of columns or rows of the activations. */
final class VectorDora implements DoraKernels {
    private static final int ROWS_PER_TASK = 16;
    private static final int COLUMNS_PER_TASK = 256;

    private final Team team;
    private final VectorLora lora;
    private final float[][] scratch;

    VectorDora(Team team, VectorLora lora) {
        this.team = team;
        this.lora = lora;
        this.scratch = new float[team.size()][0];
    }

    /** Room for {@code n} floats of one worker, kept between calls. */
    private float[] scratch(int worker, int n) {
        if (scratch[worker].length < n) {
            scratch[worker] = new float[n];
        }
        return scratch[worker];
    }

    private interface Blocks {
        void run(int from, int to, int worker);
    }

    private void blocks(int n, int size, Blocks body) {
        team.run((n + size - 1) / size, (block, worker) -> body.run(block * size, Math.min(n, (block + 1) * size),
                worker));
    }

    @Override
    public void rowSquares(Stream s, Tensor w, Tensor squares) {
        int n = w.cols();
        blocks(w.rows(), ROWS_PER_TASK, (from, to, worker) -> {
            float[] row = scratch(worker, n);
            for (int j = from; j < to; j++) {
                Floats.load(w, (long) j * n, n, row, 0);
                double sum = 0;
                for (int k = 0; k < n; k++) {
                    sum += (double) row[k] * row[k];
                }
                squares.set(j, sum);
            }
        });
    }

    @Override
    public void gain(Stream s, Tensor squares, Tensor wa, Tensor aa, Tensor b, double scale, Tensor magnitude,
            Tensor norm, Tensor gain) {
        blocks(b.rows(), ROWS_PER_TASK, (from, to, _) -> {
            for (int j = from; j < to; j++) {
                float n = (float) Math.sqrt(Math.max(0, ScalarDora.normSquare(j, squares, wa, aa, b, scale)));
                norm.set(j, n);
                gain.set(j, n == 0 ? 1 : magnitude.get(j) / n);
            }
        });
    }

    @Override
    public void scaleColumns(Stream s, Tensor x, Tensor gain, double shift, Tensor residual, Tensor bias, Tensor out) {
        int n = x.cols();
        blocks(x.rows(), ROWS_PER_TASK, (from, to, worker) -> {
            float[] own = scratch(worker, 2 * n);
            if (gain == null) {
                java.util.Arrays.fill(own, 0, n, 1);
            } else {
                Floats.load(gain, 0, n, own, 0);
            }
            for (int i = from; i < to; i++) {
                long at = (long) i * n;
                Floats.load(x, at, n, own, n);
                scale(own, n, (float) shift);
                if (residual != null) {
                    Floats.add(residual, at, n, own, n);
                }
                if (bias != null) {
                    Floats.add(bias, 0, n, own, n);
                }
                Floats.store(own, n, n, out, at);
            }
        });
    }

    /** Multiplies the n floats of the upper half with the lower half's, shifted. */
    private static void scale(float[] own, int n, float shift) {
        int k = 0;
        for (; k < Lanes.F.loopBound(n); k += Lanes.L) {
            FloatVector factor = FloatVector.fromArray(Lanes.F, own, k).add(shift);
            FloatVector.fromArray(Lanes.F, own, n + k).mul(factor).intoArray(own, n + k);
        }
        for (; k < n; k++) {
            own[n + k] *= own[k] + shift;
        }
    }

    @Override
    public void sumColumns(Stream s, Tensor dy, Tensor z, Tensor norm, Tensor sum) {
        int n = dy.cols();
        blocks(n, COLUMNS_PER_TASK, (from, to, worker) -> {
            int count = to - from;
            float[] own = scratch(worker, 3 * COLUMNS_PER_TASK);
            java.util.Arrays.fill(own, 0, count, 0);
            for (int i = 0; i < dy.rows(); i++) {
                long at = (long) i * n + from;
                if (z == null) {
                    Floats.add(dy, at, count, own, 0);
                    continue;
                }
                Floats.load(dy, at, count, own, COLUMNS_PER_TASK);
                Floats.load(z, at, count, own, 2 * COLUMNS_PER_TASK);
                addProducts(own, count);
            }
            for (int j = 0; j < count; j++) {
                double divisor = norm == null ? 1 : norm.get(from + j);
                sum.set(from + j, sum.get(from + j) + (divisor == 0 ? 0 : own[j] / divisor));
            }
        });
    }

    private static void addProducts(float[] own, int count) {
        int k = 0;
        for (; k < Lanes.F.loopBound(count); k += Lanes.L) {
            FloatVector product = FloatVector.fromArray(Lanes.F, own, COLUMNS_PER_TASK + k)
                    .mul(FloatVector.fromArray(Lanes.F, own, 2 * COLUMNS_PER_TASK + k));
            FloatVector.fromArray(Lanes.F, own, k).add(product).intoArray(own, k);
        }
        for (; k < count; k++) {
            own[k] += own[COLUMNS_PER_TASK + k] * own[2 * COLUMNS_PER_TASK + k];
        }
    }

    @Override
    public void dropout(Stream s, Dropout d, int module, Tensor x, Tensor out, boolean add) {
        lora.dropout(d, module, x, out, add);
    }
}
