package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.Supplier;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The linear layer on the scalar backend in float64: the forward against the equation, the backward against central
 * differences.
 */
class LinearGradientTest {
    private static final int N = 7;
    private static final int IN = 9;
    private static final int OUT = 6;
    private static final int MODULE = 3;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Stream S = SCALAR.openStream();

    private final Tensor x = Samples.random(1, DType.F64, N, IN);
    private final Tensor bias = Samples.random(2, DType.F64, OUT);
    private final Tensor residual = Samples.random(3, DType.F64, N, OUT);
    private final Tensor dy = Samples.random(4, DType.F64, N, OUT);
    private final Tensor dBias = Tensor.zeros(DType.F64, OUT);
    private final LoraPair[] pairs = {pair(10, 2, 1.5), null, pair(20, 4, 0.25)};

    @AfterAll
    static void close() {
        S.close();
        SCALAR.close();
    }

    private static LoraPair pair(int seed, int rank, double scale) {
        return new LoraPair(Samples.random(seed, DType.F64, rank, IN), Samples.random(seed + 1, DType.F64, OUT, rank),
                scale, Tensor.zeros(DType.F64, rank, IN), Tensor.zeros(DType.F64, OUT, rank));
    }

    private Adapters adapters(String which, double p) {
        Dropout dropout = p == 0 ? null : Samples.dropout(p, N);
        return switch (which) {
            case "none" -> Adapters.NONE;
            case "first" -> new Adapters(0, null, dropout);
            case "empty" -> new Adapters(1, null, dropout);
            case "rows" -> new Adapters(Adapters.NO_SLOT, Tensor.of(new int[]{2, 2, -1, 0, 1, 2, -1}, N), dropout);
            default -> throw new IllegalArgumentException(which);
        };
    }

    private LoraPair pairOf(Adapters a, int row) {
        int slot = a.ofRow() == null ? a.slot() : (int) a.ofRow().get(row);
        return slot < 0 ? null : pairs[slot];
    }

    /** {@code y[i, o]} as the class comment of {@link LoraKernels} writes it. */
    private double equation(LinearWeight weight, Adapters a, int i, int o) {
        Tensor w = Samples.dense(S, weight, DType.F64);
        double y = residual.get((long) i * OUT + o) + bias.get(o);
        for (int k = 0; k < IN; k++) {
            y += x.get((long) i * IN + k) * w.get((long) o * IN + k);
        }
        LoraPair pair = pairOf(a, i);
        for (int r = 0; pair != null && r < pair.rank(); r++) {
            double u = 0;
            for (int k = 0; k < IN; k++) {
                u += factor(a.dropout(), i, k) * x.get((long) i * IN + k) * pair.a().get((long) r * IN + k);
            }
            y += pair.scale() * u * pair.b().get((long) o * pair.rank() + r);
        }
        return y;
    }

    private static double factor(Dropout d, int row, int feature) {
        if (d == null) {
            return 1;
        }
        int[] words = new int[4];
        Philox.words(d.seed(), feature / 4 + (MODULE << 16), (int) d.position().get(row), (int) d.sample().get(row),
                (int) d.step().get(0), words);
        return Philox.unit(words[feature % 4]) >= d.p() ? d.scale() : 0;
    }

    @ParameterizedTest
    @CsvSource({"none,0,dense", "first,0,dense", "first,0.3,dense", "empty,0.3,dense", "rows,0,dense", "rows,0.3,dense",
            "first,0.3,nf4", "rows,0,nf4", "rows,0.3,nf4"})
    void forwardAndBackward(String which, double p, String kind) {
        Adapters a = adapters(which, p);
        Tensor w = Samples.random(5, DType.F64, OUT, IN);
        boolean dense = kind.equals("dense");
        Tensor dW = dense ? Tensor.zeros(DType.F64, OUT, IN) : null;
        Linear linear = new Linear("layer", MODULE, dense ? new LinearWeight.Dense(w) : Samples.quantized(S, w), bias,
                dW, dBias);
        for (int slot = 0; slot < pairs.length; slot++) {
            linear.set(slot, pairs[slot]);
        }
        Tensor y = Samples.poison(DType.F64, N, OUT);
        Tensor u = linear.forward(S, a, x, residual, y);
        for (int i = 0; i < N; i++) {
            for (int o = 0; o < OUT; o++) {
                assertThat(Math.abs(y.get((long) i * OUT + o) - equation(linear.weight(), a, i, o)))
                        .as("y[%d, %d]", i, o).isLessThanOrEqualTo(1e-12);
            }
        }
        Tensor dx = Samples.poison(DType.F64, N, IN);
        linear.backward(S, a, dy, x, u, false, dx);
        Tensor before = Samples.random(6, DType.F64, N, IN);
        Tensor added = Samples.random(6, DType.F64, N, IN);
        Supplier<Double> loss = () -> loss(linear, a);
        Differences.check("x", x, loss, dx);
        Differences.check("bias", bias, loss, dBias);
        if (dense) {
            Differences.check("W", w, loss, dW);
        }
        for (int slot = 0; slot < pairs.length; slot++) {
            if (pairs[slot] != null) {
                Differences.check("A of slot " + slot, pairs[slot].a(), loss, pairs[slot].dA());
                Differences.check("B of slot " + slot, pairs[slot].b(), loss, pairs[slot].dB());
            }
        }
        linear.backward(S, a, dy, x, u, true, added);
        for (long i = 0; i < dx.size(); i++) {
            assertThat(Math.abs(added.get(i) - before.get(i) - dx.get(i))).as("dx %d is added", i)
                    .isLessThanOrEqualTo(1e-12);
        }
        for (int o = 0; o < OUT; o++) {
            double sum = 0;
            for (int i = 0; i < N; i++) {
                sum += dy.get((long) i * OUT + o);
            }
            assertThat(Math.abs(dBias.get(o) - 2 * sum)).as("bias gradients of two backwards are added")
                    .isLessThanOrEqualTo(1e-12);
        }
        S.release(u);
    }

    private double loss(Linear linear, Adapters a) {
        Tensor y = Samples.poison(DType.F64, N, OUT);
        S.release(linear.forward(S, a, x, residual, y));
        double sum = 0;
        for (long i = 0; i < y.size(); i++) {
            sum += y.get(i) * dy.get(i);
        }
        return sum;
    }
}
