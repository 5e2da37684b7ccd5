package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
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
 * DoRA on the scalar backend in float64 against its equation, with the norms as constants in the differences, as the
 * gradient takes them; on the cpu backend against the scalar one.
 */
@Tag("lanes")
class DoraTest {
    private static final int N = 7;
    private static final int MODULE = 3;
    private static final double SCALE = 0.75;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    /** A layer with one trained DoRA pair, and what its calls take. */
    static final class Layer {
        private final Stream s;
        private final Tensor w;
        private final Tensor x;
        private final Tensor bias;
        private final Tensor dBias;
        private final Tensor residual;
        private final Tensor dy;
        private final Tensor magnitude;
        private final LoraPair pair;
        private final Linear linear;
        private final Adapters adapters;

        Layer(Backend backend, DType type, int in, int out, int r, boolean nf4, double p) {
            this(backend, type, in, out, r, nf4, p, 0);
        }

        Layer(Backend backend, DType type, int in, int out, int r, boolean nf4, double p, int seed) {
            s = backend.openStream();
            DType wide = Linear.wide(type);
            x = Samples.random(seed + 1, type, N, in);
            bias = Samples.random(seed + 2, type, out);
            dBias = Tensor.zeros(wide, out);
            residual = Samples.random(seed + 3, type, N, out);
            dy = Samples.random(seed + 4, type, N, out);
            Tensor dense = Samples.random(seed + 5, type, out, in);
            LinearWeight weight = nf4 ? Samples.quantized(s, dense) : new LinearWeight.Dense(dense);
            w = Samples.dense(s, weight, type);
            magnitude = Samples.random(seed + 6, wide, out);
            Tensor dMagnitude = Tensor.zeros(wide, out);
            pair = new LoraPair(Samples.random(seed + 7, wide, r, in), Samples.random(seed + 8, wide, out, r), SCALE,
                    Tensor.zeros(wide, r, in), Tensor.zeros(wide, out, r),
                    new Dora(backend, weight, magnitude, dMagnitude));
            linear = new Linear("layer", MODULE, weight, bias, null, dBias);
            linear.set(0, pair);
            adapters = new Adapters(0, null, p == 0 ? null : Samples.dropout(p, N));
        }

        Tensor forward() {
            Tensor y = Samples.poison(x.dtype(), N, linear.outFeatures());
            s.release(linear.forward(s, adapters, x, residual, y));
            return y;
        }

        /** Gradients of x, A, B, magnitude and bias; x's twice, once added to ones. */
        List<Tensor> backward() {
            Tensor y = Samples.poison(x.dtype(), N, linear.outFeatures());
            Tensor u = linear.forward(s, adapters, x, residual, y);
            Tensor dx = Samples.poison(x.dtype(), x.shape());
            Tensor added = Tensor.zeros(x.dtype(), x.shape()).fill(1);
            linear.backward(s, adapters, dy, x, u, false, dx);
            List<Tensor> all = new ArrayList<>(List.of(dx, copy(pair.dA()), copy(pair.dB()),
                    copy(pair.dora().dMagnitude()), copy(dBias)));
            linear.backward(s, adapters, dy, x, u, true, added);
            all.add(added);
            s.release(u);
            return all;
        }

        private static Tensor copy(Tensor t) {
            return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
        }

        /** The square of the norm with the magnitude of each of its terms. */
        double squaredMagnitude(int o) {
            double sum = 0;
            for (int i = 0; i < w.cols(); i++) {
                double v = Math.abs(w.get((long) o * w.cols() + i));
                for (int k = 0; k < pair.rank(); k++) {
                    v += SCALE * Math.abs(
                            pair.b().get((long) o * pair.rank() + k) * pair.a().get((long) k * w.cols() + i));
                }
                sum += v * v;
            }
            return sum;
        }

        double norm(int o) {
            double sum = 0;
            for (int i = 0; i < w.cols(); i++) {
                double v = w.get((long) o * w.cols() + i);
                for (int k = 0; k < pair.rank(); k++) {
                    v += SCALE * pair.b().get((long) o * pair.rank() + k) * pair.a().get((long) k * w.cols() + i);
                }
                sum += v * v;
            }
            return Math.sqrt(sum);
        }

        /** {@code y[i, o]} as {@link DoraLinear}'s comment writes it. */
        double equation(int i, int o, double norm) {
            int in = w.cols();
            double y = residual.get((long) i * bias.size() + o) + bias.get(o);
            double z = 0;
            for (int k = 0; k < in; k++) {
                double v = x.get((long) i * in + k);
                double d = factor(i, k) * v;
                y += (v - d) * w.get((long) o * in + k);
                z += d * w.get((long) o * in + k);
                for (int r = 0; r < pair.rank(); r++) {
                    z += SCALE * d * pair.a().get((long) r * in + k) * pair.b().get((long) o * pair.rank() + r);
                }
            }
            return y + magnitude.get(o) / norm * z;
        }

        private double factor(int row, int feature) {
            Dropout d = adapters.dropout();
            if (d == null) {
                return 1;
            }
            int[] words = new int[4];
            Philox.words(d.seed(), feature / 4 + (MODULE << 16), (int) d.position().get(row),
                    (int) d.sample().get(row), (int) d.step().get(0), words);
            return Philox.unit(words[feature % 4]) >= d.p() ? d.scale() : 0;
        }
    }

    /** Central differences are exact but for rounding: with constant norms the layer is linear in each input. */
    @ParameterizedTest
    @CsvSource({"false,0", "false,0.3", "true,0", "true,0.3"})
    void forwardAndBackward(boolean nf4, double p) {
        checkAgainstTheEquation(new Layer(SCALAR, DType.F64, 9, 6, 3, nf4, p));
    }

    static void checkAgainstTheEquation(Layer layer) {
        int out = layer.linear.outFeatures();
        double[] norms = new double[out];
        Tensor y = layer.forward();
        for (int o = 0; o < out; o++) {
            norms[o] = layer.norm(o);
            // The square of the norm is a sum that may cancel.
            double condition = layer.squaredMagnitude(o) / (norms[o] * norms[o]);
            for (int i = 0; i < N; i++) {
                double expected = layer.equation(i, o, norms[o]);
                assertThat(Math.abs(y.get((long) i * out + o) - expected)).as("y[%d, %d]", i, o)
                        .isLessThanOrEqualTo(1e-12 * Math.max(1, condition * Math.abs(expected)));
            }
        }
        Supplier<Double> loss = () -> {
            double sum = 0;
            for (int i = 0; i < N; i++) {
                for (int o = 0; o < out; o++) {
                    sum += layer.equation(i, o, norms[o]) * layer.dy.get((long) i * out + o);
                }
            }
            return sum;
        };
        List<Tensor> gradients = layer.backward();
        List<Tensor> of = List.of(layer.x, layer.pair.a(), layer.pair.b(), layer.magnitude, layer.bias);
        for (int t = 0; t < of.size(); t++) {
            Differences.check("[" + t + "]", of.get(t), loss, gradients.get(t));
        }
        for (long i = 0; i < layer.x.size(); i++) {
            assertThat(Math.abs(gradients.getLast().get(i) - 1 - gradients.getFirst().get(i)))
                    .isLessThanOrEqualTo(1e-12 * Math.max(1, Math.abs(gradients.getFirst().get(i))));
        }
    }

    /**
     * Sums of up to 134 terms of magnitude one in three products one after another: some hundred roundings of 2^-24 of
     * values up to a few thousand, of which 1e-5 of the largest value is several times more. In bfloat16 each of eight
     * tensors in between is rounded by 2^-8 of its values.
     */
    @ParameterizedTest
    @CsvSource({"17,5,2,F32,false,0.3", "64,96,5,F32,true,0", "130,66,4,F32,true,0.1", "1,1,1,F32,false,0",
            "33,70,3,BF16,true,0.1"})
    void vectorEqualsScalar(int in, int out, int r, DType type, boolean nf4, double p) {
        Layer reference = new Layer(SCALAR, type, in, out, r, nf4, p);
        Layer vector = new Layer(CPU, type, in, out, r, nf4, p);
        List<Tensor> expected = new ArrayList<>(List.of(reference.forward()));
        List<Tensor> actual = new ArrayList<>(List.of(vector.forward()));
        expected.addAll(reference.backward());
        actual.addAll(vector.backward());
        double tolerance = type == DType.BF16 ? 8 * 0x1p-8 : 1e-5;
        for (int t = 0; t < expected.size(); t++) {
            double largest = 0;
            for (long i = 0; i < expected.get(t).size(); i++) {
                largest = Math.max(largest, Math.abs(expected.get(t).get(i)));
            }
            for (long i = 0; i < expected.get(t).size(); i++) {
                assertThat(Math.abs(actual.get(t).get(i) - expected.get(t).get(i)))
                        .as("output %d, element %d: %s and %s", t, i, actual.get(t).get(i), expected.get(t).get(i))
                        .isLessThanOrEqualTo(tolerance * largest);
            }
        }
    }

    /** One batch with rows of DoRA, of plain LoRA, of a slot with its own bias, and of the base. */
    @ParameterizedTest
    @CsvSource({"scalar", "cpu"})
    void mixedRowsAreThoseOfEachAlone(String backend) {
        Layer layer = new Layer(backend.equals("cpu") ? CPU : SCALAR, DType.F32, 40, 33, 3, true, 0);
        layer.linear.set(1,
                new LoraPair(Samples.random(20, DType.F32, 5, 40), Samples.random(21, DType.F32, 33, 5), 2));
        layer.linear.setBias(2, Samples.random(22, DType.F32, 33), null);
        int[] slots = {0, 1, 1, -1, 2, 0, 2};
        Tensor mixed = Samples.poison(DType.F32, N, 33);
        Adapters byRow = new Adapters(Adapters.NO_SLOT, Tensor.of(slots, N), null);
        layer.forward();
        Tensor u = layer.linear.forward(layer.s, byRow, layer.x, layer.residual, mixed);
        for (int i = 0; i < N; i++) {
            Tensor alone = Samples.poison(DType.F32, N, 33);
            layer.s.release(layer.linear.forward(layer.s, Adapters.of(slots[i]), layer.x, layer.residual, alone));
            for (int o = 0; o < 33; o++) {
                long at = (long) i * 33 + o;
                // Other summation orders of 40 terms of magnitude one.
                assertThat(Math.abs(mixed.get(at) - alone.get(at))).as("row %d", i).isLessThanOrEqualTo(1e-4);
            }
        }
        assertThatThrownBy(() -> layer.linear.backward(layer.s, byRow, layer.dy, layer.x, u, false,
                Samples.poison(DType.F32, N, 40))).hasMessageContaining("layer").hasMessageContaining("one adapter");
        layer.s.release(u);
    }

    /** A row of zeros has no direction: its output stays 0 and nothing becomes NaN. */
    @Test
    void aRowOfZeros() {
        Tensor w = Tensor.zeros(DType.F32, 2, 4);
        w.set(0, 3);
        w.set(1, 4);
        LinearWeight weight = new LinearWeight.Dense(w);
        Tensor magnitude = Tensor.zeros(DType.F32, 2);
        for (Backend backend : List.of(SCALAR, CPU)) {
            try (Stream s = backend.openStream(); Dora dora = new Dora(backend, weight, magnitude, null)) {
                LoraPair pair = new LoraPair(Samples.random(1, DType.F32, 1, 4), Tensor.zeros(DType.F32, 2, 1), 1, null,
                        null, dora);
                dora.initialize(s, weight, pair);
                assertThat(magnitude.toFloats()).containsExactly(5, 0);
                assertThat(dora.gain().toFloats()).containsExactly(1, 1);
            }
        }
    }

    @Test
    void mergingGivesTheSameLayer() {
        Layer layer = new Layer(SCALAR, DType.F32, 12, 9, 2, false, 0);
        Tensor merged = Tensor.zeros(DType.F32, 9, 12).copyFrom(layer.w);
        Merging.Change change = Merging.merge(merged, new AdapterWeights(layer.pair.a(), layer.pair.b(),
                layer.magnitude), SCALE);
        assertThat(change.delta()).isPositive();
        Tensor y = layer.forward();
        Tensor z = Samples.poison(DType.F32, N, 9);
        new Linear("merged", 0, new LinearWeight.Dense(merged), layer.bias).forward(layer.s, Adapters.NONE, layer.x,
                layer.residual, z);
        for (long i = 0; i < y.size(); i++) {
            // A dozen float32 roundings of values up to ten.
            assertThat(Math.abs(y.get(i) - z.get(i))).isLessThanOrEqualTo(1e-5);
        }
    }
}
