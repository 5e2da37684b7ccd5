package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static qlora4j.model.Differences.check;
import static qlora4j.model.Differences.dot;
import static qlora4j.model.Differences.poison;
import static qlora4j.model.Differences.random;

import java.util.function.Supplier;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Every backward against central differences of its forward, on the scalar backend in float64. */
class DecoderGradientTest {
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Stream S = SCALAR.openStream();

    @AfterAll
    static void close() {
        S.close();
        SCALAR.close();
    }

    @Test
    void rmsNorm() {
        Tensor x = random(1, 3, 7);
        Tensor w = random(2, 7);
        Tensor dy = random(3, 3, 7);
        Tensor residual = random(4, 3, 7);
        Tensor rstd = poison(3);
        Supplier<Double> loss = () -> {
            Tensor y = poison(3, 7);
            DecoderOps.rmsNorm(S, x, w, 1e-2, y, rstd);
            return dot(y, dy) + dot(x, residual);
        };
        loss.get();
        Tensor dx = Tensor.zeros(DType.F64, 3, 7).copyFrom(residual);
        Tensor dw = Tensor.zeros(DType.F64, 7).fill(2);
        DecoderOps.rmsNormBackward(S, dy, x, w, rstd, dx, dx, dw);
        check("dx", x, loss, dx);
        for (int i = 0; i < 7; i++) {
            dw.set(i, dw.get(i) - 2);
        }
        check("dWeight", w, loss, dw);
    }

    @Test
    void rope() {
        int d = 6;
        Tensor q = random(1, 4, 2 * d);
        Tensor k = random(2, 4, d);
        Tensor table = Differences.ropeTable(9, d);
        Tensor positions = Tensor.of(new int[]{0, 3, 1, 8}, 4);
        Tensor dq = random(3, 4, 2 * d);
        Tensor dk = random(4, 4, d);
        Supplier<Double> loss = () -> {
            Tensor a = Tensor.zeros(DType.F64, 4, 2 * d).copyFrom(q);
            Tensor b = Tensor.zeros(DType.F64, 4, d).copyFrom(k);
            DecoderOps.rope(S, a, b, positions, table, d, false);
            return dot(a, dq) + dot(b, dk);
        };
        Tensor gq = Tensor.zeros(DType.F64, 4, 2 * d).copyFrom(dq);
        Tensor gk = Tensor.zeros(DType.F64, 4, d).copyFrom(dk);
        DecoderOps.rope(S, gq, gk, positions, table, d, true);
        check("dq", q, loss, gq);
        check("dk", k, loss, gk);
        // Pair (0, 3) of the row at position 1 turns by one radian.
        Tensor a = Tensor.zeros(DType.F64, 4, 2 * d).copyFrom(q);
        DecoderOps.rope(S, a, Tensor.zeros(DType.F64, 4, d).copyFrom(k), positions, table, d, false);
        double expected = q.get(2 * 2 * d) * StrictMath.cos(1) - q.get(2 * 2 * d + 3) * StrictMath.sin(1);
        assertThat(a.get(2 * 2 * d)).isEqualTo(expected);
    }

    @ParameterizedTest
    @CsvSource({"1,1,0", "4,2,0", "6,2,3", "2,2,1"})
    void attention(int heads, int kvHeads, int window) {
        int d = 3;
        int[] cu = {0, 1, 6, 6, 10};
        int n = 10;
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, 5);
        Tensor q = random(1, n, heads * d);
        Tensor k = random(2, n, kvHeads * d);
        Tensor v = random(3, n, kvHeads * d);
        Tensor dOut = random(4, n, heads * d);
        Tensor out = poison(n, heads * d);
        Tensor lse = poison(n, heads);
        Tensor bounds = Tensor.of(cu, cu.length);
        Supplier<Double> loss = () -> {
            DecoderOps.attention(S, shape, q, k, v, bounds, Tensor.of(new int[]{0, 1, 6, 6}, 4),
                    Tensor.of(new int[]{1, 5, 0, 4}, 4), out, lse);
            return dot(out, dOut);
        };
        loss.get();
        Tensor dq = poison(n, heads * d);
        Tensor dk = poison(n, kvHeads * d);
        Tensor dv = poison(n, kvHeads * d);
        DecoderOps.attentionBackward(S, shape, dOut, q, k, v, out, lse, bounds, dq, dk, dv);
        check("dq", q, loss, dq);
        check("dk", k, loss, dk);
        check("dv", v, loss, dv);
    }

    @Test
    void swiglu() {
        Tensor gate = random(1, 4, 5);
        Tensor up = random(2, 4, 5);
        Tensor dOut = random(3, 4, 5);
        Supplier<Double> loss = () -> {
            Tensor out = poison(4, 5);
            DecoderOps.swiglu(S, gate, up, out);
            return dot(out, dOut);
        };
        Tensor dGate = Tensor.zeros(DType.F64, 4, 5).copyFrom(gate);
        Tensor dUp = Tensor.zeros(DType.F64, 4, 5).copyFrom(up);
        DecoderOps.swigluBackward(S, dOut, dGate, dUp, dGate, dUp);
        check("dGate", gate, loss, dGate);
        check("dUp", up, loss, dUp);
    }

    @Test
    void embedding() {
        Tensor table = random(1, 4, 3);
        Tensor tokens = Tensor.of(new int[]{2, 0, 2, 3}, 4);
        Tensor dOut = random(2, 4, 3);
        Supplier<Double> loss = () -> {
            Tensor out = poison(4, 3);
            DecoderOps.embedding(S, tokens, table, out);
            return dot(out, dOut);
        };
        Tensor dTable = Tensor.zeros(DType.F64, 4, 3);
        DecoderOps.embeddingBackward(S, tokens, dOut, dTable);
        check("dTable", table, loss, dTable);
    }

    /** Chunks of one row, some rows, all rows: the same loss and gradients, which are the differences of the loss. */
    @ParameterizedTest
    @CsvSource({"1", "2", "5", "64"})
    void headLoss(int chunkRows) {
        Tensor h = random(1, 5, 3);
        Tensor head = random(2, 7, 3);
        Tensor labels = Tensor.of(new int[]{6, 0, -100, 3, 3}, 5);
        Tensor scale = Tensor.of(new double[]{0.25}, 1);
        Tensor nll = poison(5);
        Supplier<Double> loss = () -> {
            Tensor sum = Tensor.zeros(DType.F64, 1);
            DecoderOps.headLoss(S, h, head, labels, scale, nll, sum, null, null, chunkRows);
            return sum.get(0);
        };
        double before = loss.get();
        Tensor sum = Tensor.zeros(DType.F64, 1).fill(1);
        Tensor dH = poison(5, 3);
        Tensor dHead = Tensor.zeros(DType.F64, 7, 3);
        DecoderOps.headLoss(S, h, head, labels, scale, nll, sum, dH, dHead, chunkRows);
        // The sum begins at 1 instead of 0: a rounding for each of five rows.
        assertThat(Math.abs(sum.get(0) - 1 - before)).isLessThanOrEqualTo(5 * 0x1p-51);
        assertThat(nll.get(2)).isEqualTo(0);
        check("dH", h, loss, dH);
        check("dHead", head, loss, dHead);
        Tensor again = Tensor.zeros(DType.F64, 7, 3).copyFrom(dHead);
        DecoderOps.headLoss(S, h, head, labels, scale, nll, sum, null, again, chunkRows);
        for (int i = 0; i < again.size(); i++) {
            // Added in one or more chunks.
            assertThat(Math.abs(again.get(i) - 2 * dHead.get(i))).isLessThanOrEqualTo(1e-15);
        }
    }
}
