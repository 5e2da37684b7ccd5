package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.BiConsumer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The vector kernels against the scalar ones, at awkward sizes, outputs poisoned with NaN; one thread against three, bit
 * for bit. Inputs are of magnitude one. Float32 results may differ by a few roundings of each of the terms summed:
 * {@code 4·√n·ε·magnitude} for n terms of both signs, which is generous for a random walk of n roundings and far below
 * what a wrong term would give. A bfloat16 result may also fall on the neighbouring number.
 */
@Tag("lanes")
class VectorDecoderTest {
    private static final double EPSILON = 0x1p-23;
    private static final double BF16_EPSILON = 0x1p-7;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend ONE = Backends.open("cpu", null, 1);
    private static final Backend THREE = Backends.open("cpu", null, 3);

    @AfterAll
    static void close() {
        SCALAR.close();
        ONE.close();
        THREE.close();
    }

    /** An operation from inputs made anew to outputs made anew. */
    private interface Operation {
        Tensor[] run(Stream s);
    }

    /** Runs an operation on all backends; {@code terms} is the length of its longest sum. */
    private static void compare(Operation operation, int terms, double magnitude) {
        Tensor[] expected = on(SCALAR, operation);
        Tensor[] one = on(ONE, operation);
        Tensor[] three = on(THREE, operation);
        for (int t = 0; t < expected.length; t++) {
            double ulp = expected[t].dtype() == DType.BF16 ? BF16_EPSILON : 0;
            for (long i = 0; i < expected[t].size(); i++) {
                double e = expected[t].get(i);
                assertThat(e).as("the reference writes output %d, element %d", t, i).isFinite();
                double bound = 4 * Math.sqrt(terms) * EPSILON * Math.max(magnitude, Math.abs(e)) + ulp * Math.abs(e);
                assertThat(Math.abs(one[t].get(i) - e)).as("output %d, element %d: %s and %s", t, i, one[t].get(i), e)
                        .isLessThanOrEqualTo(bound);
            }
            assertThat(three[t].data().mismatch(one[t].data())).as("threads change nothing in output %d", t)
                    .isEqualTo(-1);
        }
    }

    private static Tensor[] on(Backend backend, Operation operation) {
        try (Stream s = backend.openStream()) {
            return operation.run(s);
        }
    }

    static Tensor random(int seed, DType type, long... shape) {
        Tensor t = Tensor.zeros(type, shape);
        Philox.Sequence rng = new Philox.Sequence(seed, 0, 0);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, rng.nextGaussian());
        }
        return t;
    }

    private static Tensor poison(DType type, long... shape) {
        return Tensor.zeros(type, shape).fill(Double.NaN);
    }

    @ParameterizedTest
    @CsvSource({"1,1,F32", "3,17,F32", "37,576,F32", "18,100,BF16", "0,5,F32"})
    void norm(int n, int c, DType type) {
        Tensor w = random(2, type, c);
        compare(s -> {
            Tensor x = random(1, type, n, c);
            Tensor y = poison(type, n, c);
            Tensor rstd = poison(DType.F32, n);
            DecoderOps.rmsNorm(s, x, w, 1e-5, y, rstd);
            Tensor dx = poison(type, n, c);
            Tensor dWeight = random(5, DType.F32, c);
            DecoderOps.rmsNormBackward(s, random(3, type, n, c), x, w, rstd, random(4, type, n, c), dx, dWeight);
            Tensor alone = poison(type, n, c);
            DecoderOps.rmsNormBackward(s, random(3, type, n, c), x, w, rstd, null, alone, null);
            return type == DType.BF16 ? new Tensor[]{rstd, dWeight} : new Tensor[]{y, rstd, dx, dWeight, alone};
        }, 2 * (n + c), 8);
    }

    /**
     * In bfloat16 the two may round {@code x·rstd} to different neighbours, which the weight then multiplies: two of
     * bfloat16's spacings.
     */
    @Test
    void normInBfloat16() {
        Tensor x = random(1, DType.BF16, 18, 100);
        Tensor w = random(2, DType.BF16, 100);
        Operation forward = s -> {
            Tensor y = poison(DType.BF16, 18, 100);
            Tensor rstd = poison(DType.F32, 18);
            DecoderOps.rmsNorm(s, x, w, 1e-5, y, rstd);
            return new Tensor[]{y};
        };
        Tensor e = on(SCALAR, forward)[0];
        Tensor a = on(THREE, forward)[0];
        for (int i = 0; i < e.size(); i++) {
            assertThat(e.get(i)).isFinite();
            assertThat(Math.abs(a.get(i) - e.get(i))).isLessThanOrEqualTo(2 * BF16_EPSILON * Math.abs(e.get(i)));
        }
    }

    @ParameterizedTest
    @CsvSource({"1,2,F32", "5,6,F32", "33,64,F32", "4,128,F32", "20,34,BF16"})
    void rope(int n, int d, DType type) {
        int[] positions = new int[n];
        for (int i = 0; i < n; i++) {
            positions[i] = i * 7 % 40;
        }
        for (boolean inverse : new boolean[]{false, true}) {
            compare(s -> {
                Tensor q = random(1, type, n, 3L * d);
                Tensor k = random(2, type, n, d);
                DecoderOps.rope(s, q, k, Tensor.of(positions, n), random(3, DType.F32, 40, d), d, inverse);
                return new Tensor[]{q, k};
            }, 2, 8);
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1", "3,17", "41,200", "0,3"})
    void swiglu(int n, int f) {
        compare(s -> {
            Tensor gate = random(1, DType.F32, n, f);
            Tensor up = random(2, DType.F32, n, f);
            Tensor out = poison(DType.F32, n, f);
            DecoderOps.swiglu(s, gate, up, out);
            DecoderOps.swigluBackward(s, random(3, DType.F32, n, f), gate, up, gate, up);
            return new Tensor[]{out, gate, up};
        }, 8, 8);
    }

    @Test
    void swigluInBfloat16() {
        Operation operation = s -> {
            Tensor out = poison(DType.BF16, 7, 333);
            DecoderOps.swiglu(s, random(1, DType.BF16, 7, 333), random(2, DType.BF16, 7, 333), out);
            return new Tensor[]{out};
        };
        Tensor e = on(SCALAR, operation)[0];
        Tensor a = on(THREE, operation)[0];
        for (int i = 0; i < e.size(); i++) {
            assertThat(e.get(i)).isFinite();
            // silu may be rounded to the neighbour, and the product again.
            assertThat(Math.abs(a.get(i) - e.get(i))).isLessThanOrEqualTo(2 * BF16_EPSILON * Math.abs(e.get(i)));
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1", "9,130", "300,65"})
    void rowsAreCopiedAndAdded(int n, int c) {
        int[] ids = new int[n];
        for (int i = 0; i < n; i++) {
            ids[i] = i * 5 % 11;
        }
        Tensor tokens = Tensor.of(ids, n);
        compare(s -> {
            Tensor out = poison(DType.F32, n, c);
            DecoderOps.embedding(s, tokens, random(1, DType.BF16, 11, c), out);
            Tensor same = poison(DType.F32, n, c);
            DecoderOps.gatherRows(s, random(2, DType.F32, 11, c), tokens, same);
            Tensor dTable = random(3, DType.F32, 11, c);
            DecoderOps.embeddingBackward(s, tokens, out, dTable);
            return new Tensor[]{out, same, dTable};
        }, n, 8);
    }

    @ParameterizedTest
    @CsvSource({"1,1", "5,33", "7,1025", "3,5000"})
    void crossEntropy(int n, int v) {
        int[] labels = new int[n];
        for (int i = 0; i < n; i++) {
            labels[i] = i % 3 == 1 ? -100 : i * 31 % v;
        }
        for (boolean gradient : new boolean[]{true, false}) {
            compare(s -> {
                Tensor logits = random(1, DType.F32, n, v);
                Tensor nll = poison(DType.F32, n);
                Tensor loss = Tensor.zeros(DType.F64, 1).fill(0.5);
                DecoderOps.crossEntropy(s, logits, Tensor.of(labels, n), Tensor.of(new float[]{0.25f}, 1), nll, loss,
                        gradient);
                return new Tensor[]{logits, nll, loss};
            }, 64, 8);
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1,16,0,F32", "9,3,64,0,F32", "4,2,32,5,F32", "6,1,7,70,F32", "3,3,128,0,F32", "2,1,20,33,BF16",
            "9,3,1,1,F32", "2,1,150,0,F32", "150,1,3,0,F32"})
    void attention(int heads, int kvHeads, int d, int window, DType type) {
        int[] cu = {0, 1, 1, 70, 75, 215};
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, 140);
        int n = cu[cu.length - 1];
        int sequences = cu.length - 1;
        int[] lengths = new int[sequences];
        int[] starts = new int[sequences];
        for (int i = 0; i < sequences; i++) {
            starts[i] = cu[i];
            lengths[i] = cu[i + 1] - cu[i];
        }
        // Saved tensors are given to both alike, so that a rounded out does not differ before the backward begins.
        Tensor savedOut = Tensor.zeros(type, n, (long) heads * d);
        Tensor savedLse = Tensor.zeros(DType.F32, n, heads);
        BiConsumer<Stream, Tensor[]> forward = (s, t) -> DecoderOps.attention(s, shape,
                random(1, type, n, (long) heads * d), random(2, type, n, (long) kvHeads * d),
                random(3, type, n, (long) kvHeads * d), Tensor.of(cu, cu.length), Tensor.of(starts, sequences),
                Tensor.of(lengths, sequences), t[0], t[1]);
        on(SCALAR, s -> {
            forward.accept(s, new Tensor[]{savedOut, savedLse});
            return new Tensor[0];
        });
        compare(s -> {
            Tensor out = poison(type, n, (long) heads * d);
            Tensor lse = poison(DType.F32, n, heads);
            forward.accept(s, new Tensor[]{out, lse});
            Tensor dq = poison(type, n, (long) heads * d);
            Tensor dk = poison(type, n, (long) kvHeads * d);
            Tensor dv = poison(type, n, (long) kvHeads * d);
            DecoderOps.attentionBackward(s, shape, random(4, type, n, (long) heads * d),
                    random(1, type, n, (long) heads * d), random(2, type, n, (long) kvHeads * d),
                    random(3, type, n, (long) kvHeads * d), savedOut, savedLse, Tensor.of(cu, cu.length), dq, dk, dv);
            return new Tensor[]{out, lse, dq, dk, dv};
        }, 140 * heads / kvHeads + d, 8);
    }

    /** One query of each sequence, over keys that fill some pieces of a cache, or half of one. */
    @ParameterizedTest
    @CsvSource({"1,1,16,0", "9,3,64,0", "6,2,48,0", "4,1,80,70", "3,3,128,9", "2,1,20,0", "5,1,32,1"})
    void attentionOfOneQuery(int heads, int kvHeads, int d, int window) {
        int[] lengths = {1, 5, 63, 64, 65, 200, 128};
        int capacity = 210;
        int n = lengths.length;
        int[] starts = new int[n];
        int[] cu = new int[n + 1];
        for (int i = 0; i < n; i++) {
            starts[i] = i * capacity;
            cu[i + 1] = i + 1;
        }
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, capacity);
        Tensor k = poison(DType.F32, (long) n * capacity, (long) kvHeads * d);
        Tensor v = poison(DType.F32, (long) n * capacity, (long) kvHeads * d);
        for (int i = 0; i < n; i++) {
            k.rows(starts[i], starts[i] + lengths[i])
                    .copyFrom(random(10 + i, DType.F32, lengths[i], (long) kvHeads * d));
            v.rows(starts[i], starts[i] + lengths[i])
                    .copyFrom(random(20 + i, DType.F32, lengths[i], (long) kvHeads * d));
        }
        compare(s -> {
            Tensor out = poison(DType.F32, n, (long) heads * d);
            Tensor lse = poison(DType.F32, n, heads);
            DecoderOps.attention(s, shape, random(1, DType.F32, n, (long) heads * d), k, v, Tensor.of(cu, n + 1),
                    Tensor.of(starts, n), Tensor.of(lengths, n), out, lse);
            return new Tensor[]{out, lse};
        }, 200 + d, 8);
    }

    /** Generated one, three and many tokens at a time through a cache, attention gives what it gives at once. */
    @ParameterizedTest
    @ValueSource(ints = {0, 9})
    void attentionThroughACache(int window) {
        int heads = 6;
        int kvHeads = 2;
        int d = 24;
        int n = 150;
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, n);
        Tensor q = random(1, DType.F32, n, heads * d);
        Tensor k = random(2, DType.F32, n, kvHeads * d);
        Tensor v = random(3, DType.F32, n, kvHeads * d);
        Tensor whole = poison(DType.F32, n, heads * d);
        try (Stream s = SCALAR.openStream()) {
            DecoderOps.attention(s, shape, q, k, v, Tensor.of(new int[]{0, n}, 2), Tensor.of(new int[]{0}, 1),
                    Tensor.of(new int[]{n}, 1), whole, poison(DType.F32, n, heads));
        }
        // Two sequences of the cache get the same tokens, the second in another room of it.
        int capacity = 160;
        for (Backend backend : new Backend[]{SCALAR, THREE}) {
            Tensor kCache = poison(DType.F32, 2 * capacity, kvHeads * d);
            Tensor vCache = poison(DType.F32, 2 * capacity, kvHeads * d);
            int at = 0;
            for (int step : new int[]{100, 1, 3, 1, 45}) {
                Tensor cuQ = Tensor.of(new int[]{0, step, 2 * step}, 3);
                Tensor kvStart = Tensor.of(new int[]{0, capacity}, 2);
                Tensor kvLen = Tensor.of(new int[]{at + step, at + step}, 2);
                Tensor out = poison(DType.F32, 2 * step, heads * d);
                try (Stream s = backend.openStream()) {
                    DecoderOps.appendToCache(s, twice(k, at, step), twice(v, at, step), cuQ, kvStart, kvLen, kCache,
                            vCache);
                    DecoderOps.attention(s, shape, twice(q, at, step), kCache, vCache, cuQ, kvStart, kvLen, out,
                            poison(DType.F32, 2 * step, heads));
                }
                for (int i = 0; i < 2 * step; i++) {
                    for (int c = 0; c < heads * d; c++) {
                        double e = whole.get((long) (at + i % step) * heads * d + c);
                        assertThat(e).isFinite();
                        assertThat(Math.abs(out.get((long) i * heads * d + c) - e))
                                .isLessThanOrEqualTo(4 * Math.sqrt(n + d) * EPSILON * 8);
                    }
                }
                at += step;
            }
        }
    }

    private static Tensor twice(Tensor t, int from, int rows) {
        Tensor out = Tensor.zeros(t.dtype(), 2L * rows, t.cols());
        out.rows(0, rows).copyFrom(t.rows(from, from + rows));
        out.rows(rows, 2L * rows).copyFrom(t.rows(from, from + rows));
        return out;
    }
}
