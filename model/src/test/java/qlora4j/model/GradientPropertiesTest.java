package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.model.Differences.check;
import static qlora4j.model.Differences.copy;
import static qlora4j.model.Differences.dot;
import static qlora4j.model.Differences.poison;
import static qlora4j.model.Differences.random;

import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.function.Supplier;
import net.jqwik.api.EdgeCasesMode;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.DoubleRange;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Every backward against central differences of its forward in float64, for all small shapes. */
class GradientPropertiesTest {
    private static Backend scalar;
    private static Stream s;

    @BeforeContainer
    static void open() {
        scalar = Backends.open(Backend.SCALAR);
        s = scalar.openStream();
    }

    @AfterContainer
    static void close() {
        s.close();
        scalar.close();
    }

    private static int[] integers(int seed, int n, int bound) {
        return new SplittableRandom(seed).ints(n, 0, bound).toArray();
    }

    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void rmsNorm(@ForAll @IntRange(min = 1, max = 5) int n, @ForAll @IntRange(min = 1, max = 12) int c,
            @ForAll @DoubleRange(min = 1e-2, max = 1) double eps, @ForAll boolean residual,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor x = random(seed, n, c);
        Tensor w = random(seed + 1, c);
        Tensor dy = random(seed + 2, n, c);
        Tensor added = residual ? random(seed + 3, n, c) : null;
        Tensor rstd = poison(n);
        Supplier<Double> loss = () -> {
            Tensor y = poison(n, c);
            DecoderOps.rmsNorm(s, x, w, eps, y, rstd);
            return dot(y, dy) + (residual ? dot(x, added) : 0);
        };
        loss.get();
        Tensor dx = poison(n, c);
        Tensor dw = Tensor.zeros(DType.F64, c);
        DecoderOps.rmsNormBackward(s, dy, x, w, rstd, added, dx, dw);
        check("dx", x, loss, dx);
        check("dWeight", w, loss, dw);
    }

    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void rope(@ForAll @IntRange(min = 1, max = 4) int n, @ForAll @IntRange(min = 1, max = 3) int heads,
            @ForAll @IntRange(min = 1, max = 2) int kvHeads, @ForAll @IntRange(min = 1, max = 4) int half,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        int d = 2 * half;
        Tensor table = Differences.ropeTable(11, d);
        Tensor positions = Tensor.of(integers(seed, n, 11), n);
        Tensor q = random(seed, n, heads * d);
        Tensor k = random(seed + 1, n, kvHeads * d);
        Tensor dq = random(seed + 2, n, heads * d);
        Tensor dk = random(seed + 3, n, kvHeads * d);
        Supplier<Double> loss = () -> {
            Tensor a = copy(q);
            Tensor b = copy(k);
            DecoderOps.rope(s, a, b, positions, table, d, false);
            return dot(a, dq) + dot(b, dk);
        };
        Tensor gq = copy(dq);
        Tensor gk = copy(dk);
        DecoderOps.rope(s, gq, gk, positions, table, d, true);
        check("dq", q, loss, gq);
        check("dk", k, loss, gk);
    }

    /** Grouped queries, a window or none, sequences of any lengths behind one another, empty ones too. */
    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void attention(@ForAll @IntRange(min = 1, max = 3) int kvHeads, @ForAll @IntRange(min = 1, max = 3) int group,
            @ForAll @IntRange(min = 1, max = 4) int d, @ForAll @IntRange(min = 0, max = 4) int window,
            @ForAll @Size(min = 1, max = 3) int[] lengthsOfAnySize,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        int[] lengths = Arrays.stream(lengthsOfAnySize).map(l -> Math.floorMod(l, 6)).toArray();
        int[] cu = new int[lengths.length + 1];
        for (int i = 0; i < lengths.length; i++) {
            cu[i + 1] = cu[i] + lengths[i];
        }
        int n = cu[lengths.length];
        AttentionShape shape = new AttentionShape(kvHeads * group, kvHeads, d, window, 5);
        Tensor q = random(seed, n, shape.heads() * d);
        Tensor k = random(seed + 1, n, kvHeads * d);
        Tensor v = random(seed + 2, n, kvHeads * d);
        Tensor dOut = random(seed + 3, n, shape.heads() * d);
        Tensor out = poison(n, shape.heads() * d);
        Tensor lse = poison(n, shape.heads());
        Tensor bounds = Tensor.of(cu, cu.length);
        Tensor starts = Tensor.of(Arrays.copyOf(cu, lengths.length), lengths.length);
        Tensor keys = Tensor.of(lengths, lengths.length);
        Supplier<Double> loss = () -> {
            DecoderOps.attention(s, shape, q, k, v, bounds, starts, keys, out, lse);
            return dot(out, dOut);
        };
        loss.get();
        Tensor dq = poison(n, shape.heads() * d);
        Tensor dk = poison(n, kvHeads * d);
        Tensor dv = poison(n, kvHeads * d);
        DecoderOps.attentionBackward(s, shape, dOut, q, k, v, out, lse, bounds, dq, dk, dv);
        check("dq", q, loss, dq);
        check("dk", k, loss, dk);
        check("dv", v, loss, dv);
    }

    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void swiglu(@ForAll @IntRange(min = 1, max = 5) int n, @ForAll @IntRange(min = 1, max = 9) int c,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor gate = random(seed, n, c);
        Tensor up = random(seed + 1, n, c);
        Tensor dOut = random(seed + 2, n, c);
        Supplier<Double> loss = () -> {
            Tensor out = poison(n, c);
            DecoderOps.swiglu(s, gate, up, out);
            return dot(out, dOut);
        };
        Tensor dGate = poison(n, c);
        Tensor dUp = poison(n, c);
        DecoderOps.swigluBackward(s, dOut, gate, up, dGate, dUp);
        check("dGate", gate, loss, dGate);
        check("dUp", up, loss, dUp);
    }

    /** A token that is there twice has the sum of both rows' gradients. */
    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void embedding(@ForAll @IntRange(min = 1, max = 8) int n, @ForAll @IntRange(min = 1, max = 5) int vocab,
            @ForAll @IntRange(min = 1, max = 5) int c, @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor table = random(seed, vocab, c);
        Tensor tokens = Tensor.of(integers(seed, n, vocab), n);
        Tensor dOut = random(seed + 1, n, c);
        Supplier<Double> loss = () -> {
            Tensor out = poison(n, c);
            DecoderOps.embedding(s, tokens, table, out);
            return dot(out, dOut);
        };
        Tensor dTable = Tensor.zeros(DType.F64, vocab, c);
        DecoderOps.embeddingBackward(s, tokens, dOut, dTable);
        check("dTable", table, loss, dTable);
    }

    /** Labels of all values, the ignored one among them. */
    private static Tensor labels(int seed, int n, int vocab) {
        int[] labels = Arrays.stream(integers(seed, n, vocab + 1)).map(l -> l == vocab ? TokenBatch.IGNORED : l)
                .toArray();
        return Tensor.of(labels, n);
    }

    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void crossEntropy(@ForAll @IntRange(min = 1, max = 5) int n, @ForAll @IntRange(min = 1, max = 9) int vocab,
            @ForAll @DoubleRange(min = 0.1, max = 2) double factor,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor logits = random(seed, n, vocab);
        Tensor labels = labels(seed, n, vocab);
        Tensor scale = Tensor.of(new double[]{factor}, 1);
        Tensor nll = poison(n);
        Supplier<Double> loss = () -> {
            Tensor sum = Tensor.zeros(DType.F64, 1);
            DecoderOps.crossEntropy(s, logits, labels, scale, nll, sum, false);
            return sum.get(0);
        };
        double value = loss.get();
        double expected = 0;
        for (int i = 0; i < n; i++) {
            expected += factor * nll.get(i);
        }
        // Sums of at most five numbers below ten.
        assertThat(Math.abs(value - expected)).isLessThanOrEqualTo(1e-13);
        Tensor gradient = copy(logits);
        DecoderOps.crossEntropy(s, gradient, labels, scale, nll, Tensor.zeros(DType.F64, 1), true);
        check("dLogits", logits, loss, gradient);
    }

    @Property(tries = 40, edgeCases = EdgeCasesMode.NONE)
    void headLoss(@ForAll @IntRange(min = 1, max = 5) int n, @ForAll @IntRange(min = 1, max = 6) int vocab,
            @ForAll @IntRange(min = 1, max = 4) int c, @ForAll @IntRange(min = 1, max = 6) int chunkRows,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor h = random(seed, n, c);
        Tensor head = random(seed + 1, vocab, c);
        Tensor labels = labels(seed, n, vocab);
        Tensor scale = Tensor.of(new double[]{0.5}, 1);
        Tensor nll = poison(n);
        Supplier<Double> loss = () -> {
            Tensor sum = Tensor.zeros(DType.F64, 1);
            DecoderOps.headLoss(s, h, head, labels, scale, nll, sum, null, null, chunkRows);
            return sum.get(0);
        };
        Tensor dH = poison(n, c);
        Tensor dHead = Tensor.zeros(DType.F64, vocab, c);
        DecoderOps.headLoss(s, h, head, labels, scale, nll, Tensor.zeros(DType.F64, 1), dH, dHead, chunkRows);
        check("dH", h, loss, dH);
        check("dHead", head, loss, dHead);
    }
}
