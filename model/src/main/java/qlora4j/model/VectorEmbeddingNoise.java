package qlora4j.model;

import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import qlora4j.lora.Dropout;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** {@link EmbeddingNoise} in float32, whole rows at a time shared by a team. */
final class VectorEmbeddingNoise {
    private static final int ROWS_PER_TASK = 8;

    private final Team team;
    private final VectorScratch scratch;
    private final int[][] words;

    VectorEmbeddingNoise(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, 2);
        this.words = new int[team.size()][4];
    }

    void add(EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu, Tensor h) {
        int[] starts = new int[(int) cu.size()];
        Arrays.setAll(starts, q -> (int) cu.get(q));
        int step = (int) noise.step().get(0);
        int rows = h.rows();
        int n = h.cols();
        team.run(Math.ceilDiv(rows, ROWS_PER_TASK), (block, worker) -> {
            float[] x = scratch.get(worker, 0, n);
            float[] u = scratch.get(worker, 1, n + 3);
            for (int i = block * ROWS_PER_TASK; i < Math.min(rows, (block + 1) * ROWS_PER_TASK); i++) {
                int q = sequence(starts, i);
                uniform(noise, (int) positions.get(i), (int) samples.get(i), step, words[worker], u, n);
                Floats.load(h, (long) i * n, n, x, 0);
                add(x, u, noise.magnitude(starts[q + 1] - starts[q], n), n);
                Floats.store(x, 0, n, h, (long) i * n);
            }
        });
    }

    /** The sequence that holds a row. */
    private static int sequence(int[] starts, int row) {
        int at = Arrays.binarySearch(starts, row);
        return at >= 0 ? at : -at - 2;
    }

    private static void uniform(EmbeddingNoise noise, int position, int sample, int step, int[] words, float[] u,
            int n) {
        for (int j = 0; j < n; j += 4) {
            Philox.words(noise.seed(), Dropout.counter(j / 4, EmbeddingNoise.MODULE), position, sample, step, words);
            for (int k = 0; k < 4; k++) {
                u[j + k] = 2 * Philox.unit(words[k]) - 1;
            }
        }
    }

    /** Product and sum are rounded apart, as everywhere: no fused multiply-add. */
    private static void add(float[] x, float[] u, float magnitude, int n) {
        int j = 0;
        for (; j <= n - Lanes.L; j += Lanes.L) {
            FloatVector.fromArray(Lanes.F, u, j).mul(magnitude).add(FloatVector.fromArray(Lanes.F, x, j))
                    .intoArray(x, j);
        }
        for (; j < n; j++) {
            x[j] += u[j] * magnitude;
        }
    }
}
