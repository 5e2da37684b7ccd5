package qlora4j.lora;

import qlora4j.tensor.Floats;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** The element-wise steps in float32 over the team, whole rows at a time. */
final class VectorLora extends ComposedLora {
    private static final int ROWS_PER_TASK = 16;

    private final Team team;
    private final float[][] first;
    private final float[][] second;

    VectorLora(Team team) {
        this.team = team;
        this.first = new float[team.size()][0];
        this.second = new float[team.size()][0];
    }

    private interface RowTask {
        void run(int row, float[] first, float[] second);
    }

    private void eachRow(int rows, int cols, RowTask task) {
        team.run((rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, (block, worker) -> {
            if (first[worker].length < cols) {
                first[worker] = new float[cols];
                second[worker] = new float[cols];
            }
            for (int i = block * ROWS_PER_TASK; i < Math.min(rows, (block + 1) * ROWS_PER_TASK); i++) {
                task.run(i, first[worker], second[worker]);
            }
        });
    }

    @Override
    void addRows(Tensor y, Tensor residual, Tensor bias) {
        int n = y.cols();
        eachRow(y.rows(), n, (i, row, other) -> {
            long at = (long) i * n;
            Floats.load(y, at, n, row, 0);
            if (bias != null) {
                Floats.add(bias, 0, n, row, 0);
            }
            if (residual != null) {
                Floats.add(residual, at, n, row, 0);
            }
            Floats.store(row, 0, n, y, at);
        });
    }

    @Override
    void dropout(Dropout d, int module, Tensor x, Tensor out, boolean add) {
        int n = x.cols();
        int step = (int) d.step().get(0);
        // unit(word) >= p, decided on the word's upper 24 bits alone.
        int threshold = (int) Math.ceil(d.p() * 0x1p24);
        float scale = d.scale();
        eachRow(x.rows(), n, (i, row, mask) -> {
            long at = (long) i * n;
            mask(d, module, step, (int) d.position().get(i), (int) d.sample().get(i), threshold, scale, mask, n);
            Floats.load(x, at, n, row, 0);
            for (int j = 0; j < n; j++) {
                row[j] = mask[j] == 0 ? 0 : row[j] * mask[j];
            }
            if (add) {
                Floats.add(out, at, n, row, 0);
            }
            Floats.store(row, 0, n, out, at);
        });
    }

    /** The factor of each of n features: {@code scale} where kept, 0 where dropped. */
    private static void mask(Dropout d, int module, int step, int position, int sample, int threshold, float scale,
            float[] mask, int n) {
        for (int group = 0; group * 4 < n; group++) {
            int c0 = Dropout.counter(group, module);
            int c1 = position;
            int c2 = sample;
            int c3 = step;
            int k0 = (int) d.seed();
            int k1 = (int) (d.seed() >>> 32);
            for (int round = 0; round < Philox.ROUNDS; round++) {
                long p0 = (Philox.M0 & 0xffffffffL) * (c0 & 0xffffffffL);
                long p1 = (Philox.M1 & 0xffffffffL) * (c2 & 0xffffffffL);
                c0 = (int) (p1 >>> 32) ^ c1 ^ k0;
                c2 = (int) (p0 >>> 32) ^ c3 ^ k1;
                c1 = (int) p1;
                c3 = (int) p0;
                k0 += Philox.W0;
                k1 += Philox.W1;
            }
            int j = group * 4;
            mask[j] = c0 >>> 8 >= threshold ? scale : 0;
            if (j + 3 < n) {
                mask[j + 1] = c1 >>> 8 >= threshold ? scale : 0;
                mask[j + 2] = c2 >>> 8 >= threshold ? scale : 0;
                mask[j + 3] = c3 >>> 8 >= threshold ? scale : 0;
            } else {
                int[] rest = {c1, c2, c3};
                for (int t = 1; j + t < n; t++) {
                    mask[j + t] = rest[t - 1] >>> 8 >= threshold ? scale : 0;
                }
            }
        }
    }

    @Override
    void sumRows(Tensor dy, Tensor dBias) {
        int n = dy.cols();
        int rows = dy.rows();
        float[] sum = new float[n];
        for (int i = 0; i < rows; i++) {
            Floats.add(dy, (long) i * n, n, sum, 0);
        }
        Floats.add(dBias, 0, n, sum, 0);
        Floats.store(sum, 0, n, dBias, 0);
    }
}
