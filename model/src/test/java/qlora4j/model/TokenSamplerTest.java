package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

class TokenSamplerTest {
    /** The logits of probabilities .4, .3, .2, .1, the largest at 2. */
    private static final double[] P = {0.3, 0.1, 0.4, 0.2};
    private static final int DRAWS = 20_000;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    private static Backend backend(String name) {
        return name.equals("scalar") ? SCALAR : CPU;
    }

    private static float[] logits() {
        float[] x = new float[P.length];
        for (int i = 0; i < x.length; i++) {
            x[i] = (float) (Math.log(P[i]) + 3);
        }
        return x;
    }

    private static SamplingConfig config(double temperature, int topK, double topP, double penalty, long seed) {
        return new SamplingConfig(true, temperature, topK, topP, penalty, seed);
    }

    private static int[] choose(String backend, SamplingConfig c, float[][] rows, int[][] history, int[] lengths) {
        int n = rows[0].length;
        Tensor logits = Tensor.zeros(DType.F32, rows.length, n);
        Tensor past = Tensor.zeros(DType.I32, rows.length, history[0].length);
        for (int r = 0; r < rows.length; r++) {
            logits.rows(r, r + 1).copyFrom(Tensor.of(rows[r], 1, n));
            past.rows(r, r + 1).copyFrom(Tensor.of(history[r], 1, history[r].length));
        }
        Tensor tokens = Tensor.zeros(DType.I32, rows.length).fill(-7);
        try (Stream s = backend(backend).openStream()) {
            DecoderOps.sample(s, c, logits, past, Tensor.of(lengths, lengths.length), tokens);
        }
        return tokens.toInts();
    }

    private static int one(String backend, SamplingConfig c, float[] row, int length) {
        return choose(backend, c, new float[][]{row}, new int[][]{new int[length]}, new int[]{length})[0];
    }

    /**
     * How often each token comes in {@link #DRAWS} draws of lengths 0, 1, 2 ... Five standard deviations of a binomial
     * are allowed, and the seed is fixed: nothing here is left to chance from run to run. With any other seed a frequency
     * would be beyond with a probability of 6e-7.
     */
    private static void expectFrequencies(SamplingConfig c, double... expected) {
        int[] counts = new int[expected.length];
        float[] row = logits();
        Tensor logits = Tensor.of(row, 1, row.length);
        Tensor history = Tensor.zeros(DType.I32, 1, 1);
        Tensor tokens = Tensor.zeros(DType.I32, 1);
        try (Stream s = SCALAR.openStream()) {
            for (int i = 0; i < DRAWS; i++) {
                DecoderOps.sample(s, c, logits, history, Tensor.of(new int[]{i}, 1), tokens);
                counts[(int) tokens.get(0)]++;
            }
        }
        for (int i = 0; i < counts.length; i++) {
            double deviation = Math.sqrt(DRAWS * expected[i] * (1 - expected[i]));
            assertThat(Math.abs(counts[i] - DRAWS * expected[i])).as("token %d came %d times", i, counts[i])
                    .isLessThanOrEqualTo(5 * deviation);
        }
    }

    @Test
    void drawsFromTheDistribution() {
        expectFrequencies(config(1, 0, 1, 1, 1), P);
        // At temperature 1/2 probabilities are squared: .09 .01 .16 .04 over .3.
        expectFrequencies(config(0.5, 0, 1, 1, 2), 0.3, 0.1 / 3, 1.6 / 3, 0.4 / 3);
        expectFrequencies(config(1, 2, 1, 1, 3), 3.0 / 7, 0, 4.0 / 7, 0);
        expectFrequencies(config(1, 9, 1, 1, 4), P);
        // .4 leaves room below .65, .7 does not.
        expectFrequencies(config(1, 0, 0.65, 1, 5), 3.0 / 7, 0, 4.0 / 7, 0);
        expectFrequencies(config(1, 0, 0.75, 1, 6), 3.0 / 9, 0, 4.0 / 9, 2.0 / 9);
        expectFrequencies(config(1, 0, 1e-9, 1, 7), 0, 0, 1, 0);
        expectFrequencies(config(1, 1, 1, 1, 8), 0, 0, 1, 0);
        // The top-p share is of what top-k left: of 3/7 and 4/7, 4/7 alone reaches one half.
        expectFrequencies(config(1, 2, 0.5, 1, 9), 0, 0, 1, 0);
    }

    @Test
    void equalLogits() {
        float[] same = {1, 5, 5, 5};
        // Equals of the k-th stay; of the mass, the first ones.
        boolean[] seen = new boolean[4];
        for (int i = 0; i < 200; i++) {
            seen[one("scalar", config(1, 1, 1, 1, 3), same, i)] = true;
            assertThat(one("scalar", config(1, 0, 0.5, 1, 3), same, i)).isBetween(1, 2);
        }
        assertThat(seen).containsExactly(false, true, true, true);
        assertThat(one("scalar", SamplingConfig.GREEDY, same, 1)).isEqualTo(1);
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void aDrawDependsOnSeedRowAndLength(String backend) {
        float[][] rows = new float[64][];
        int[][] history = new int[64][5];
        int[] lengths = new int[64];
        Arrays.fill(rows, new float[16]);
        Arrays.fill(lengths, 5);
        int[] first = choose(backend, config(1, 0, 1, 1, 1), rows, history, lengths);
        assertThat(choose(backend, config(1, 0, 1, 1, 1), rows, history, lengths)).isEqualTo(first);
        assertThat(choose("scalar", config(1, 0, 1, 1, 1), rows, history, lengths)).isEqualTo(first);
        assertThat(Arrays.stream(first).distinct().count()).isGreaterThan(10);
        assertThat(choose(backend, config(1, 0, 1, 1, 2), rows, history, lengths)).isNotEqualTo(first);
        Arrays.fill(lengths, 4);
        assertThat(choose(backend, config(1, 0, 1, 1, 1), rows, history, lengths)).isNotEqualTo(first);
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void penalty(String backend) {
        SamplingConfig greedy = new SamplingConfig(false, 1, 0, 1, 2, 0);
        // 4/2 = 2 once, though it came twice; -1·2 = -2; the token behind the row's length does not count.
        assertThat(choose(backend, greedy, new float[][]{{4, 1.5f, -1, 1.9f}}, new int[][]{{0, 0, 2, 1}},
                new int[]{3})).containsExactly(0);
        assertThat(choose(backend, greedy, new float[][]{{4, 2.5f, -1, 1}}, new int[][]{{0, 0, 2, 1}},
                new int[]{3})).containsExactly(1);
        assertThat(choose(backend, greedy, new float[][]{{-3, -1, -1.5f}}, new int[][]{{1}}, new int[]{1}))
                .containsExactly(2);
        // Not changed while nothing was generated, and each row for itself.
        assertThat(choose(backend, greedy, new float[][]{{4, 2.5f}, {4, 2.5f}}, new int[][]{{0}, {0}},
                new int[]{0, 1})).containsExactly(0, 1);
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void namesWhatCannotBeChosenFrom(String backend) {
        float inf = Float.POSITIVE_INFINITY;
        assertThatThrownBy(() -> one(backend, SamplingConfig.GREEDY, new float[]{1, 2, Float.NaN}, 1))
                .hasMessageContaining("row 0").hasMessageContaining("NaN at token 2");
        assertThatThrownBy(() -> one(backend, config(1, 0, 1, 1, 1), new float[]{1, inf}, 1))
                .hasMessageContaining("row 0").hasMessageContaining("Infinity");
        assertThatThrownBy(() -> one(backend, config(1, 0, 1, 1, 1), new float[]{-inf, -inf}, 1))
                .hasMessageContaining("-Infinity");
        // A forbidden token never comes.
        for (int i = 0; i < 50; i++) {
            assertThat(one(backend, config(1, 0, 1, 1, 1), new float[]{-inf, 0, -inf}, i)).isEqualTo(1);
        }
    }
}
