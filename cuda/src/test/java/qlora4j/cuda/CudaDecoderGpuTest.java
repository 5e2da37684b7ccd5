package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.model.DecoderOps;
import qlora4j.model.EmbeddingNoise;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The decoder's kernels but attention and sampling against their scalar twins. */
@Tag("gpu")
class CudaDecoderGpuTest {
    private static final Twins TWINS = new Twins();
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private Tensor normal(DType type, long... shape) {
        return Gpu.normal(random, type, shape);
    }

    /** In bfloat16 {@code x·rstd} may round to the neighbour, which the weight then multiplies: two spacings. */
    @ParameterizedTest
    @CsvSource({"1,1,F32,F32", "3,17,F32,F32", "37,576,F32,F32", "2,4099,F32,F32", "0,5,F32,F32", "18,100,BF16,BF16",
            "5,4096,BF16,BF16", "3,8200,BF16,F32", "7,33,BF16,F32"})
    void norm(int n, int c, DType type, DType weightType) {
        Tensor x = normal(type, n, c);
        Tensor w = normal(weightType, c);
        TWINS.close(r -> {
            Tensor y = r.out(type, n, c);
            Tensor rstd = r.out(DType.F32, n);
            DecoderOps.rmsNorm(r.s, r.in(x), r.in(w), 1e-5, y, rstd);
            return new Tensor[]{y, rstd};
        }, 2 * c, 8, 2);
    }

    @ParameterizedTest
    @CsvSource({"1,1,F32,F32", "3,17,F32,F32", "37,576,F32,F32", "70,33,F32,F32", "0,5,F32,F32", "18,100,BF16,BF16",
            "65,512,BF16,F32", "3,4099,BF16,BF16"})
    void normBackward(int n, int c, DType type, DType weightType) {
        Tensor x = normal(type, n, c);
        Tensor dy = normal(type, n, c);
        Tensor w = normal(weightType, c);
        Tensor residual = normal(type, n, c);
        Tensor dWeight = normal(DType.F32, c);
        Tensor rstd = Tensor.zeros(DType.F32, n);
        for (int i = 0; i < n; i++) {
            rstd.set(i, 0.5 + random.nextDouble());
        }
        TWINS.close(r -> {
            Tensor dx = r.out(type, n, c);
            Tensor sum = r.in(dWeight);
            DecoderOps.rmsNormBackward(r.s, r.in(dy), r.in(x), r.in(w), r.in(rstd), r.in(residual), dx, sum);
            Tensor inPlace = r.in(residual);
            DecoderOps.rmsNormBackward(r.s, r.in(dy), r.in(x), r.in(w), r.in(rstd), inPlace, inPlace, null);
            Tensor alone = r.out(type, n, c);
            DecoderOps.rmsNormBackward(r.s, r.in(dy), r.in(x), r.in(w), r.in(rstd), null, alone, null);
            return new Tensor[]{dx, inPlace, alone, sum};
        }, 2 * (n + c), 32, 1);
    }

    /** Each step is rounded once on every backend: the same bits. */
    @ParameterizedTest
    @CsvSource({"1,1,F32", "5,7,F32", "9,576,F32", "33,130,BF16", "3,4099,BF16", "0,8,F32"})
    void embeddingNoise(int n, int c, DType type) {
        Tensor h = normal(type, n, c);
        int[] samples = random.ints(n, 0, 1000).toArray();
        int[] positions = random.ints(n, 0, 100_000).toArray();
        int[] cu = n == 0 ? new int[]{0} : n < 3 ? new int[]{0, n} : new int[]{0, 1, n - 1, n};
        TWINS.identical(r -> {
            Tensor noisy = r.in(h);
            DecoderOps.embeddingNoise(r.s, new EmbeddingNoise(5, 1L << 40 | 17, r.ints(3)), r.ints(samples),
                    r.ints(positions), r.ints(cu), noisy);
            return new Tensor[]{noisy};
        });
    }

    @ParameterizedTest
    @CsvSource({"1,2,F32", "5,6,F32", "33,64,F32", "4,128,F32", "20,34,BF16", "9,128,BF16", "3,8,BF16", "2,16,BF16"})
    void rope(int n, int d, DType type) {
        int[] positions = random.ints(n, 0, 40).toArray();
        Tensor q = normal(type, n, 3L * d);
        Tensor k = normal(type, n, d);
        Tensor table = normal(DType.F32, 40, d);
        for (boolean inverse : new boolean[]{false, true}) {
            TWINS.close(r -> {
                Tensor dq = r.in(q);
                Tensor dk = r.in(k);
                DecoderOps.rope(r.s, dq, dk, r.ints(positions), r.in(table), d, inverse);
                return new Tensor[]{dq, dk};
            }, 2, 8, 1);
        }
    }

    /** In bfloat16 silu may round to the neighbour and the product again: two spacings. */
    @ParameterizedTest
    @CsvSource({"1,1,F32", "3,17,F32", "41,200,F32", "0,3,F32", "7,33,BF16", "16,4096,BF16", "1,9,BF16"})
    void swiglu(int n, int f, DType type) {
        Tensor gate = normal(type, n, f);
        Tensor up = normal(type, n, f);
        Tensor dOut = normal(type, n, f);
        if (gate.size() > 8) {
            // The exponential underflows and overflows.
            gate.set(0, 120);
            gate.set(5, -120);
            gate.set(7, -88);
        }
        TWINS.close(r -> {
            Tensor out = r.out(type, n, f);
            DecoderOps.swiglu(r.s, r.in(gate), r.in(up), out);
            Tensor g = r.in(gate);
            Tensor u = r.in(up);
            DecoderOps.swigluBackward(r.s, r.in(dOut), g, u, g, u);
            Tensor dGate = r.out(type, n, f);
            Tensor dUp = r.out(type, n, f);
            DecoderOps.swigluBackward(r.s, r.in(dOut), r.in(gate), r.in(up), dGate, dUp);
            return new Tensor[]{out, g, u, dGate, dUp};
        }, 8, 8, 2);
    }

    /** Copies, and sums in the order of rows: the same bits. */
    @ParameterizedTest
    @CsvSource({"1,1,1,F32,F32", "9,130,11,BF16,F32", "300,65,11,F32,F32", "2500,24,700,BF16,BF16",
            "3000,8,3,F32,BF16", "40,4096,100,BF16,BF16", "0,7,3,F32,F32"})
    void rowsAreCopiedAndAdded(int n, int c, int v, DType from, DType to) {
        Tensor table = normal(from, v, c);
        Tensor dOut = normal(from, n, c);
        Tensor sums = normal(to, v, c);
        int[] ids = random.ints(n, 0, v).toArray();
        TWINS.identical(r -> {
            Tensor tokens = r.ints(ids);
            Tensor out = r.out(to, n, c);
            DecoderOps.embedding(r.s, tokens, r.in(table), out);
            Tensor same = r.out(from, n, c);
            DecoderOps.gatherRows(r.s, r.in(table), tokens, same);
            Tensor dTable = r.in(sums);
            DecoderOps.embeddingBackward(r.s, tokens, r.in(dOut), dTable);
            return new Tensor[]{out, same, dTable};
        });
    }

    @ParameterizedTest
    @EnumSource(value = DType.class, names = {"F32", "BF16"})
    void appendToCache(DType type) {
        // Sequences of 2, 0, 0, 3 and 1 new rows, with room for eight each.
        Tensor k = normal(type, 6, 10);
        Tensor v = normal(type, 6, 10);
        TWINS.identical(r -> {
            Tensor kCache = r.out(type, 40, 10);
            Tensor vCache = r.out(type, 40, 10);
            DecoderOps.appendToCache(r.s, r.in(k), r.in(v), r.ints(0, 2, 2, 2, 5, 6), r.ints(0, 8, 16, 24, 32),
                    r.ints(4, 0, 5, 3, 8), kCache, vCache);
            return new Tensor[]{kCache, vCache};
        });
    }

    /** In one kernel in bfloat16, else one after the other; rows that are no sequence's are not written. */
    @ParameterizedTest
    @CsvSource({"6,16,BF16", "6,128,BF16", "6,34,BF16", "6,16,F32", "12,64,BF16"})
    void ropeToCache(int n, int d, DType type) {
        int[] positions = random.ints(n, 0, 40).toArray();
        Tensor q = normal(type, n, 3L * d);
        Tensor k = normal(type, n, 2L * d);
        Tensor v = normal(type, n, 2L * d);
        Tensor table = normal(DType.F32, 40, d);
        // Sequences of 2, 0, 3 and n - 6 new rows; the last row is of none.
        TWINS.close(r -> {
            Tensor dq = r.in(q);
            Tensor dk = r.in(k);
            Tensor kCache = r.in(Tensor.zeros(type, 60, 2L * d));
            Tensor vCache = r.in(Tensor.zeros(type, 60, 2L * d));
            DecoderOps.ropeToCache(r.s, dq, dk, r.in(v), r.ints(positions), r.in(table), d,
                    r.ints(0, 2, 2, 5, n - 1), r.ints(0, 8, 16, 24), r.ints(4, 5, 3, n), kCache, vCache);
            return new Tensor[]{dq, dk, kCache, vCache};
        }, 2, 8, 1);
    }

    @ParameterizedTest
    @CsvSource({"1,1,F32", "5,33,F64", "7,1025,F32", "130,5000,F32", "3,32000,F32", "2,40003,F32"})
    void crossEntropy(int n, int v, DType nllType) {
        int[] labels = new int[n];
        Arrays.setAll(labels, i -> i % 3 == 1 ? -100 : random.nextInt(v));
        Tensor logits = normal(DType.F32, n, v);
        for (long i = 0; i < logits.size(); i++) {
            logits.set(i, 4 * logits.get(i));
        }
        if (v > 40) {
            // A whole thread's logits are masked out.
            for (int c = 0; c < 32; c++) {
                logits.set(c, Double.NEGATIVE_INFINITY);
            }
            labels[0] = 35;
        }
        for (boolean gradient : new boolean[]{true, false}) {
            Tensor[][] both = TWINS.run(r -> {
                Tensor x = r.in(logits);
                Tensor nll = r.out(nllType, n);
                Tensor loss = r.in(Tensor.of(new double[]{0.5}, 1));
                DecoderOps.crossEntropy(r.s, x, r.ints(labels), r.in(Tensor.of(new float[]{0.25f}, 1)), nll, loss,
                        gradient);
                return new Tensor[]{x, nll, loss};
            });
            // Exponentials and their sum are each off by a few units in the last place.
            for (long i = 0; gradient && i < logits.size(); i++) {
                double e = both[0][0].get(i);
                assertThat(Math.abs(both[1][0].get(i) - e)).as("gradient %d: %s", i, e)
                        .isLessThanOrEqualTo(64 * Twins.EPSILON * Math.max(Math.abs(e), 0.25));
            }
            assertThat(gradient ? -1 : both[1][0].data().mismatch(logits.data())).isEqualTo(-1);
            double sum = 0.5;
            for (int i = 0; i < n; i++) {
                double e = both[0][1].get(i);
                assertThat(Math.abs(both[1][1].get(i) - e)).isLessThanOrEqualTo(64 * Twins.EPSILON * 8);
                sum += 0.25 * both[1][1].get(i);
            }
            assertThat(both[1][2].get(0)).as("the loss in the order of rows").isEqualTo(sum);
        }
    }

    @Test
    void aRunRepeatsBitForBit() {
        Tensor logits = normal(DType.F32, 3, 32000);
        Tensor first = null;
        for (int run = 0; run < 3; run++) {
            try (Stream s = TWINS.cuda.openStream()) {
                Tensor x = Gpu.device(TWINS.cuda, logits);
                Tensor nll = Gpu.poisoned(TWINS.cuda, DType.F32, 3);
                DecoderOps.crossEntropy(s, x, Gpu.device(TWINS.cuda, Tensor.of(new int[]{1, 2, 3}, 3)),
                        Gpu.device(TWINS.cuda, Tensor.of(new float[]{1}, 1)), nll,
                        Gpu.device(TWINS.cuda, Tensor.of(new double[]{0}, 1)), true);
                Tensor host = Gpu.host(TWINS.cuda, x);
                first = first == null ? host : first;
                assertThat(host.data().mismatch(first.data())).isEqualTo(-1);
            }
        }
    }

    /** What the CPU throws at once comes when the GPU is next waited for, in the same words. */
    @Test
    void namesWhatIsWrongInTheData() {
        CudaBackend b = TWINS.cuda;
        try (Stream s = b.openStream()) {
            Tensor table = Gpu.device(b, normal(DType.F32, 5, 8));
            Tensor out = Gpu.poisoned(b, DType.F32, 3, 8);
            DecoderOps.embedding(s, Gpu.device(b, Tensor.of(new int[]{1, 9, 2}, 3)), table, out);
            assertThatThrownBy(s::synchronize).isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("token id 9 at row 1: the embedding has 5 rows; the tokenizer does not belong to this"
                            + " model");
            assertThat(Gpu.host(b, out).get(2 * 8)).as("the other rows are there")
                    .isEqualTo(Gpu.host(b, table).get(16));
            DecoderOps.gatherRows(s, table, Gpu.device(b, Tensor.of(new int[]{1, -1, 2}, 3)), out);
            assertThatThrownBy(() -> Gpu.host(b, out)).isInstanceOf(IndexOutOfBoundsException.class)
                    .hasMessageContaining("row 1 refers to row -1 of 5");
            Tensor nll = Gpu.poisoned(b, DType.F32, 1);
            DecoderOps.crossEntropy(s, Gpu.device(b, normal(DType.F32, 1, 7)),
                    Gpu.device(b, Tensor.of(new int[]{7}, 1)), Gpu.device(b, Tensor.of(new float[]{1}, 1)), nll,
                    Gpu.device(b, Tensor.of(new double[]{0}, 1)), true);
            assertThatThrownBy(s::synchronize).hasMessage("label 7 of row 0: must be -100 (not trained) or 0 to 6");
            assertThat(Gpu.host(b, nll).get(0)).isNaN();
            DecoderOps.rope(s, Gpu.device(b, normal(DType.F32, 2, 4)), Gpu.device(b, normal(DType.F32, 2, 4)),
                    Gpu.device(b, Tensor.of(new int[]{3, 4}, 2)), Gpu.device(b, normal(DType.F32, 4, 4)), 4, false);
            assertThatThrownBy(s::synchronize).hasMessageContaining("position 4 of row 1")
                    .hasMessageContaining("has 4");
            s.synchronize();
        }
    }

    @Test
    void namesTypesThatItCannotTake() {
        CudaBackend b = TWINS.cuda;
        try (Stream s = b.openStream()) {
            Tensor half = Gpu.device(b, normal(DType.F16, 2, 4));
            Tensor other = Gpu.device(b, normal(DType.F32, 2, 4));
            assertThatThrownBy(() -> DecoderOps.swiglu(s, half, half, Gpu.poisoned(b, DType.F16, 2, 4)))
                    .hasMessageContaining("swiglu_forward on the cuda backend takes float32 and bfloat16")
                    .hasMessageContaining("F16");
            assertThatThrownBy(() -> DecoderOps.swiglu(s, other, half, Gpu.poisoned(b, DType.F32, 2, 4)))
                    .hasMessageContaining("of one type");
        }
    }

    /** Histories with room, with room for one and full. */
    @ParameterizedTest
    @ValueSource(ints = {1, 3, 300})
    void advance(int sequences) {
        TWINS.identical(run -> {
            int[] numbers = new int[sequences];
            java.util.Arrays.setAll(numbers, i -> 1 + i % 7);
            Tensor tokens = run.out(DType.I32, sequences);
            Tensor positions = run.out(DType.I32, sequences);
            Tensor kvLen = run.ints(numbers);
            Tensor lengths = run.ints(numbers);
            Tensor history = run.in(Tensor.of(new int[6 * sequences], sequences, 6));
            DecoderOps.advance(run.s, run.ints(java.util.stream.IntStream.range(100, 100 + sequences).toArray()),
                    tokens,
                    positions, kvLen, history, lengths);
            return new Tensor[]{tokens, positions, kvLen, history, lengths};
        });
    }
}
