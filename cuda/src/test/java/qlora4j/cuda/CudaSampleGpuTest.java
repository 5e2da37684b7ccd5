package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import qlora4j.model.DecoderOps;
import qlora4j.model.SamplingConfig;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The choice of tokens against the scalar twin's: the same tokens, whatever the settings. */
@Tag("gpu")
class CudaSampleGpuTest {
    private static final Twins TWINS = new Twins();
    private static final int[] VOCABULARIES = {1, 2, 37, 1000, 1024, 1025, 5003, 32000};
    private static final double[] TEMPERATURES = {1, 0.7, 1.5, 0.01};
    private static final int[] TOP_K = {0, 1, 5, 50, 5000};
    private static final double[] TOP_P = {1, 0.95, 0.5, 1e-9, 0.999999};
    private static final double[] PENALTIES = {1, 1.3, 2};
    private static final Random RANDOM = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private static double any(double[] values) {
        return values[RANDOM.nextInt(values.length)];
    }

    private static int any(int[] values) {
        return values[RANDOM.nextInt(values.length)];
    }

    private static Tensor logits(DType type, int rows, int v) {
        Tensor t = Gpu.normal(RANDOM, type, rows, v);
        boolean ties = RANDOM.nextInt(3) == 0;
        for (long i = 0; i < t.size(); i++) {
            t.set(i, ties ? Math.rint(3 * t.get(i)) : 3 * t.get(i));
        }
        if (v > 3 && RANDOM.nextBoolean()) {
            t.set(RANDOM.nextInt(v), Double.NEGATIVE_INFINITY);
        }
        return t;
    }

    @RepeatedTest(40)
    void choosesTheSameTokens() {
        DType type = RANDOM.nextInt(4) == 0 ? DType.BF16 : DType.F32;
        int v = any(VOCABULARIES);
        int rows = 1 + RANDOM.nextInt(3);
        int capacity = 1 + RANDOM.nextInt(9);
        SamplingConfig config = new SamplingConfig(RANDOM.nextInt(5) > 0, any(TEMPERATURES), any(TOP_K), any(TOP_P),
                any(PENALTIES), RANDOM.nextLong());
        Tensor logits = logits(type, rows, v);
        Tensor history = Tensor.of(RANDOM.ints((long) rows * capacity, 0, v).toArray(), rows, capacity);
        int[] lengths = RANDOM.ints(rows, 0, capacity + 1).toArray();
        Tensor[][] both = TWINS.run(r -> {
            Tensor tokens = r.in(Tensor.zeros(DType.I32, rows).fill(-7));
            Tensor x = r.in(logits);
            DecoderOps.sample(r.s, config, x, r.in(history), r.ints(lengths), tokens);
            return new Tensor[]{tokens, x};
        });
        assertThat(both[1][0].toInts()).as("%s of %d %s logits", config, v, type).isEqualTo(both[0][0].toInts());
        assertThat(both[1][1].data().mismatch(logits.data())).as("logits are left as they were").isEqualTo(-1);
    }

    /** A thousand draws of one distribution, by their lengths. */
    @Test
    void drawsTheSameSequence() {
        int rows = 1000;
        Tensor logits = Tensor.zeros(DType.F32, rows, 16);
        SamplingConfig config = new SamplingConfig(true, 1, 0, 1, 1, RANDOM.nextLong());
        int[] lengths = new int[rows];
        for (int i = 0; i < rows; i++) {
            lengths[i] = i % 7;
        }
        Tensor history = Tensor.zeros(DType.I32, rows, 7);
        Tensor[][] both = TWINS.run(r -> {
            Tensor tokens = r.in(Tensor.zeros(DType.I32, rows).fill(-7));
            DecoderOps.sample(r.s, config, r.in(logits), r.in(history), r.ints(lengths), tokens);
            return new Tensor[]{tokens};
        });
        assertThat(both[1][0].toInts()).isEqualTo(both[0][0].toInts());
        assertThat(both[1][0].toInts()).contains(0, 7, 15);
    }

    private static void choose(SamplingConfig config, float... logits) {
        CudaBackend b = TWINS.cuda;
        try (Stream s = b.openStream()) {
            DecoderOps.sample(s, config, Gpu.device(b, Tensor.of(logits, 1, logits.length)),
                    Gpu.device(b, Tensor.zeros(DType.I32, 1, 1)), Gpu.device(b, Tensor.of(new int[]{1}, 1)),
                    Gpu.poisoned(b, DType.I32, 1));
            s.synchronize();
        }
    }

    @Test
    void namesWhatCannotBeChosenFrom() {
        float inf = Float.POSITIVE_INFINITY;
        SamplingConfig draw = new SamplingConfig(true, 1, 0, 1, 1, 1);
        assertThatThrownBy(() -> choose(SamplingConfig.GREEDY, 1, 2, Float.NaN))
                .isInstanceOf(IllegalStateException.class).hasMessageContaining("row 0 are NaN at token 2");
        assertThatThrownBy(() -> choose(draw, 1, inf)).hasMessageContaining("row 0 is Infinity");
        assertThatThrownBy(() -> choose(draw, -inf, -inf)).hasMessageContaining("row 0 is -Infinity");
        choose(draw, 1, 2);
    }

    /** Scratch memory that grew after a step was recorded is not what the recording uses. */
    @Test
    void aRecordedStepKeepsItsScratch() {
        SamplingConfig config = new SamplingConfig(true, 1, 50, 0.9, 1.2, 7);
        try (CudaBackend b = Gpu.open(); Stream s = b.openStream()) {
            Tensor logits = Gpu.device(b, logits(DType.F32, 1, 1000));
            Tensor history = Gpu.device(b, Tensor.of(new int[]{3, 4, 5}, 1, 3));
            Tensor length = Gpu.device(b, Tensor.of(new int[]{3}, 1));
            Tensor token = Gpu.device(b, Tensor.of(new int[]{-1}, 1));
            DecoderOps.sample(s, config, logits, history, length, token);
            int expected = (int) Gpu.host(b, token).get(0);
            try (Stream.Recording step = s.record(() -> DecoderOps.sample(s, config, logits, history, length, token))) {
                DecoderOps.sample(s, config, Gpu.device(b, logits(DType.F32, 1, 100_000)), history, length, token);
                // These would get the place of what was freed.
                Tensor[] others = new Tensor[16];
                for (int i = 0; i < others.length; i++) {
                    others[i] = Gpu.poisoned(b, DType.I32, 2000 - 256 / 4);
                }
                b.upload(Tensor.of(new int[]{-1}, 1), token);
                step.replay();
                assertThat((int) Gpu.host(b, token).get(0)).isEqualTo(expected);
                for (Tensor other : others) {
                    assertThat(Gpu.host(b, other).toInts()).containsOnly(-1);
                }
            }
        }
    }
}
