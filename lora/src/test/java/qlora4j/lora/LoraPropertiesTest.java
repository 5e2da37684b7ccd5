package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.util.List;
import java.util.function.Supplier;
import net.jqwik.api.EdgeCasesMode;
import net.jqwik.api.Example;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.DoubleRange;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * What holds of every adapter: with B = 0 it changes nothing, merging is the stated sum and can be undone, a merged layer
 * computes what the layer beside its adapter does, and gradients are the differences of the forward.
 */
class LoraPropertiesTest {
    /** The unit roundoff of float32. */
    private static final double U = 0x1p-24;
    /** Budgets of docs/numerics.md in ulp of the result's magnitude: "lora" y plus "matmul, dense" x·Wᵀ. */
    private static final double SCALAR_BUDGET = 1 + 1;
    private static final double CPU_BUDGET = 3 + 5;
    /** The larger one on the cpu backend of "linear, NF4" y and "matmul, dense" x·Wᵀ. */
    private static final double LINEAR_BUDGET = 5;
    private static Backend scalar;
    private static Backend cpu;
    private static Stream scalarStream;
    private static Stream cpuStream;

    @BeforeContainer
    static void open() {
        scalar = Backends.open(Backend.SCALAR);
        cpu = Backends.open(Backend.CPU, null, 2);
        scalarStream = scalar.openStream();
        cpuStream = cpu.openStream();
    }

    @AfterContainer
    static void close() {
        scalarStream.close();
        cpuStream.close();
        scalar.close();
        cpu.close();
    }

    private static Stream stream(boolean vector) {
        return vector ? cpuStream : scalarStream;
    }

    private static Tensor copy(Tensor t) {
        return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
    }

    private static LinearWeight weight(Stream s, Tensor w, boolean nf4) {
        return nf4 ? Samples.quantized(s, w) : new LinearWeight.Dense(w);
    }

    /** Types of activations; adapters are at least float32. */
    private enum Type {
        F64, F32, BF16;

        private DType dtype() {
            return DType.valueOf(name());
        }
    }

    /**
     * Bit for bit: a sum with zeros is exact. DoRA's first magnitudes are the norms, whose quotient is 1, but it adds its
     * terms in another order: within the contract.
     */
    @Property(tries = 150)
    void withBZeroTheLayerIsTheBase(@ForAll @IntRange(min = 1, max = 9) int n,
            @ForAll @IntRange(min = 1, max = 70) int in, @ForAll @IntRange(min = 1, max = 40) int out,
            @ForAll @IntRange(min = 1, max = 9) int rank, @ForAll Type type, @ForAll boolean nf4,
            @ForAll boolean dora, @ForAll boolean dropout, @ForAll boolean onCpu,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        boolean vector = onCpu && type != Type.F64;
        Stream s = stream(vector);
        DType wide = Linear.wide(type.dtype());
        LinearWeight w = weight(s, Samples.random(seed, type.dtype(), out, in), nf4);
        Linear linear = new Linear("layer", 0, w, Samples.random(seed + 1, type.dtype(), out));
        Tensor a = Samples.random(seed + 2, wide, rank, in);
        Tensor b = Tensor.zeros(wide, out, rank);
        Tensor x = Samples.random(seed + 3, type.dtype(), n, in);
        Tensor residual = Samples.random(seed + 4, type.dtype(), n, out);
        Tensor base = Samples.poison(type.dtype(), n, out);
        linear.forward(s, Adapters.NONE, x, residual, base);
        try (Dora d = dora ? new Dora(s.backend(), w, Tensor.zeros(wide, out), null) : null) {
            LoraPair pair = new LoraPair(a, b, 1.5, null, null, d);
            if (dora) {
                d.initialize(s, w, pair);
            }
            linear.set(0, pair);
            // DoRA under dropout adds (gain - 1) times the dropped part and the part that stays in another order.
            Dropout p = dropout && !dora ? Samples.dropout(0.3, n) : null;
            Tensor y = Samples.poison(type.dtype(), n, out);
            Tensor u = linear.forward(s, new Adapters(0, null, p), x, residual, y);
            s.release(u);
            if (dora) {
                checkDora(y, base, x, Samples.dense(s, w, type.dtype()), residual, linear.bias());
            } else {
                assertThat(y.data().mismatch(base.data())).isEqualTo(-1);
            }
        }
    }

    /** Two results within the linear layer's budget each, in ulp of their magnitude in the type they are written in. */
    private static void checkDora(Tensor y, Tensor base, Tensor x, Tensor w, Tensor residual, Tensor bias) {
        for (int r = 0; r < y.rows(); r++) {
            for (int o = 0; o < y.cols(); o++) {
                long at = (long) r * y.cols() + o;
                double m = Math.abs(residual.get(at)) + Math.abs(bias.get(o));
                for (int i = 0; i < x.cols(); i++) {
                    m += Math.abs(x.get((long) r * x.cols() + i) * w.get((long) o * x.cols() + i));
                }
                double ulp = switch (y.dtype()) {
                    case F64 -> Math.ulp(m);
                    case BF16 -> 0x1p16 * Math.ulp((float) m);
                    default -> Math.ulp((float) m);
                };
                assertThat(Math.abs(y.get(at) - base.get(at))).as("[%d, %d]", r, o)
                        .isLessThanOrEqualTo(2 * LINEAR_BUDGET * ulp);
            }
        }
    }

    /** {@code |w| + scale·|B|·|A|} of one element: what the roundings of merging are relative to. */
    private static double magnitude(Tensor w, Tensor a, Tensor b, double scale, int o, int i) {
        double sum = 0;
        for (int k = 0; k < a.rows(); k++) {
            sum += Math.abs(b.get((long) o * a.rows() + k) * a.get((long) k * w.cols() + i));
        }
        return Math.abs(w.get((long) o * w.cols() + i)) + Math.abs(scale) * sum;
    }

    /**
     * A term rounds as a product and in each of r - 1 additions; then the scale, its product and the addition to the
     * weight round once each: {@code (r + 3)·u} of the terms' magnitudes, to first order (Higham 2002, section 3.1).
     */
    private static double mergeBound(int rank) {
        return (rank + 3) * U * (1 + 1e-5);
    }

    @Property(tries = 150)
    void mergingIsTheSumAndMergingTheNegativeUndoesIt(@ForAll @IntRange(min = 1, max = 40) int in,
            @ForAll @IntRange(min = 1, max = 30) int out, @ForAll @IntRange(min = 1, max = 9) int rank,
            @ForAll @DoubleRange(min = 0.01, max = 20) double scale,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor w = Samples.random(seed, DType.F32, out, in);
        Tensor a = Samples.random(seed + 1, DType.F32, rank, in);
        Tensor b = Samples.random(seed + 2, DType.F32, out, rank);
        Tensor merged = copy(w);
        AdapterWeights adapter = new AdapterWeights(a, b, null);
        Merging.Change change = Merging.merge(merged, adapter, scale);
        double weight = 0;
        double delta = 0;
        for (int o = 0; o < out; o++) {
            for (int i = 0; i < in; i++) {
                long at = (long) o * in + i;
                double exact = w.get(at);
                for (int k = 0; k < rank; k++) {
                    exact += scale * b.get((long) o * rank + k) * a.get((long) k * in + i);
                }
                assertThat(Math.abs(merged.get(at) - exact)).as("[%d, %d]: %s and %s", o, i, merged.get(at), exact)
                        .isLessThanOrEqualTo(mergeBound(rank) * magnitude(w, a, b, scale, o, i));
                weight += w.get(at) * w.get(at);
                delta += (merged.get(at) - w.get(at)) * (merged.get(at) - w.get(at));
            }
        }
        // Two sums of the same squares in double.
        assertThat(Math.abs(change.weight() - Math.sqrt(weight))).isLessThanOrEqualTo(1e-12 * Math.sqrt(weight));
        assertThat(Math.abs(change.delta() - Math.sqrt(delta))).isLessThanOrEqualTo(1e-12 * Math.sqrt(delta));

        Tensor back = copy(merged);
        Merging.merge(back, adapter, -scale);
        for (long at = 0; at < w.size(); at++) {
            // The change is the same float32 number with the other sign; adding it and taking it away round once each.
            double bound = (Math.ulp((float) merged.get(at)) + Math.ulp((float) back.get(at))) / 2.0;
            assertThat(Math.abs(back.get(at) - w.get(at))).as("element %d", at).isLessThanOrEqualTo(bound);
        }
    }

    /** Integers below 2^24 are added without rounding: the weight comes back as it was. */
    @Property(tries = 50)
    void whatDoesNotRoundComesBack(@ForAll @IntRange(min = 1, max = 20) int in,
            @ForAll @IntRange(min = 1, max = 20) int out, @ForAll @IntRange(min = 1, max = 8) int rank,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor[] t = {Samples.random(seed, DType.F32, out, in), Samples.random(seed + 1, DType.F32, rank, in),
                Samples.random(seed + 2, DType.F32, out, rank)};
        for (Tensor each : t) {
            for (long i = 0; i < each.size(); i++) {
                each.set(i, Math.rint(100 * each.get(i)));
            }
        }
        Tensor w = copy(t[0]);
        AdapterWeights adapter = new AdapterWeights(t[1], t[2], null);
        Merging.merge(w, adapter, 2);
        Merging.merge(w, adapter, -2);
        for (long i = 0; i < w.size(); i++) {
            assertThat(w.get(i)).as("element %d", i).isEqualTo(t[0].get(i) + 0.0);
        }
        Merging.Change none = Merging.merge(w, new AdapterWeights(t[1], Tensor.zeros(DType.F32, out, rank), null), 2);
        assertThat(none.delta()).isZero();
    }

    /**
     * A row's norm is DoRA's magnitude: the norm, the quotient and each product round once in float32, and a row of the
     * direction that plain merging gives. A row of zeros stays.
     */
    @Property(tries = 100)
    void mergedRowsOfDoraHaveTheMagnitudesAsNorms(@ForAll @IntRange(min = 1, max = 40) int in,
            @ForAll @IntRange(min = 2, max = 30) int out, @ForAll @IntRange(min = 1, max = 9) int rank,
            @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Tensor w = Samples.random(seed, DType.F32, out, in);
        Tensor a = Samples.random(seed + 1, DType.F32, rank, in);
        Tensor b = Samples.random(seed + 2, DType.F32, out, rank);
        Tensor magnitude = Samples.magnitudes(Samples.random(seed + 3, DType.F32, out));
        w.rows(0, 1).fill(0);
        b.rows(0, 1).fill(0);
        Tensor plain = copy(w);
        Merging.merge(plain, new AdapterWeights(a, b, null), 0.5);
        Merging.merge(w, new AdapterWeights(a, b, magnitude), 0.5);
        for (int o = 0; o < out; o++) {
            double norm = 0;
            double before = 0;
            for (int i = 0; i < in; i++) {
                norm += Math.pow(w.get((long) o * in + i), 2);
                before += Math.pow(plain.get((long) o * in + i), 2);
            }
            double expected = o == 0 ? 0 : magnitude.get(o);
            assertThat(Math.abs(Math.sqrt(norm) - expected)).as("row %d", o).isLessThanOrEqualTo(4 * U * expected);
            for (int i = 0; o > 0 && i < in; i++) {
                double scaled = plain.get((long) o * in + i) * expected / Math.sqrt(before);
                assertThat(Math.abs(w.get((long) o * in + i) - scaled)).as("[%d, %d]", o, i)
                        .isLessThanOrEqualTo(4 * U * Math.abs(scaled));
            }
        }
    }

    /**
     * The merged layer against the layer beside its adapter. Both are within their budgets of the exact result for the
     * weights they have, in ulp of the result's magnitude; the merged weights are off by {@link #mergeBound}.
     */
    @Property(tries = 150)
    void theMergedLayerIsTheLayerBesideItsAdapter(@ForAll @IntRange(min = 1, max = 9) int n,
            @ForAll @IntRange(min = 1, max = 136) int in, @ForAll @IntRange(min = 1, max = 40) int out,
            @ForAll @IntRange(min = 1, max = 9) int rank, @ForAll boolean rsLora, @ForAll boolean nf4,
            @ForAll boolean vector, @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Stream s = stream(vector);
        double scale = scale(rank, rsLora);
        LinearWeight base = weight(s, Samples.random(seed, DType.F32, out, in), nf4);
        Tensor w = Samples.dense(s, base, DType.F32);
        Tensor a = Samples.random(seed + 1, DType.F32, rank, in);
        Tensor b = Samples.random(seed + 2, DType.F32, out, rank);
        Tensor x = Samples.random(seed + 3, DType.F32, n, in);
        Tensor merged = copy(w);
        Merging.merge(merged, new AdapterWeights(a, b, null), scale);
        Linear beside = new Linear("beside", 0, base, null);
        beside.set(0, new LoraPair(a, b, scale));
        Tensor y = Samples.poison(DType.F32, n, out);
        s.release(beside.forward(s, Adapters.of(0), x, null, y));
        Tensor z = Samples.poison(DType.F32, n, out);
        new Linear("merged", 0, new LinearWeight.Dense(merged), null).forward(s, Adapters.NONE, x, null, z);
        for (int r = 0; r < n; r++) {
            for (int o = 0; o < out; o++) {
                double m = 0;
                for (int i = 0; i < in; i++) {
                    m += Math.abs(x.get((long) r * in + i)) * magnitude(w, a, b, scale, o, i);
                }
                double budget = (vector ? CPU_BUDGET : SCALAR_BUDGET) * Math.ulp((float) m);
                long at = (long) r * out + o;
                assertThat(Math.abs(y.get(at) - z.get(at))).as("[%d, %d]: %s and %s", r, o, y.get(at), z.get(at))
                        .isLessThanOrEqualTo(budget + mergeBound(rank) * m);
            }
        }
    }

    private static double scale(int rank, boolean rsLora) {
        LoraConfig config = new LoraConfig(rank, 3, 0, List.of(LoraConfig.ALL_LINEAR), null, 0)
                .withVariant(rsLora, false);
        return config.scale("model.layers.0.mlp.up_proj");
    }

    @Property(tries = 60, edgeCases = EdgeCasesMode.NONE)
    void gradientsAreTheDifferences(@ForAll @IntRange(min = 1, max = 5) int n,
            @ForAll @IntRange(min = 1, max = 10) int in, @ForAll @IntRange(min = 1, max = 8) int out,
            @ForAll @IntRange(min = 1, max = 5) int rank, @ForAll boolean rsLora, @ForAll boolean nf4,
            @ForAll boolean bias, @ForAll boolean dropout, @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        Stream s = scalarStream;
        Tensor w = Samples.random(seed, DType.F64, out, in);
        Tensor dW = nf4 ? null : Tensor.zeros(DType.F64, out, in);
        Tensor beta = bias ? Samples.random(seed + 1, DType.F64, out) : null;
        Tensor dBias = bias ? Tensor.zeros(DType.F64, out) : null;
        LoraPair pair = new LoraPair(Samples.random(seed + 2, DType.F64, rank, in),
                Samples.random(seed + 3, DType.F64, out, rank), scale(rank, rsLora),
                Tensor.zeros(DType.F64, rank, in), Tensor.zeros(DType.F64, out, rank));
        Linear linear = new Linear("layer", 1, weight(s, w, nf4), beta, dW, dBias);
        linear.set(0, pair);
        Adapters use = new Adapters(0, null, dropout ? Samples.dropout(0.4, n) : null);
        Tensor x = Samples.random(seed + 4, DType.F64, n, in);
        Tensor dy = Samples.random(seed + 5, DType.F64, n, out);
        Tensor y = Samples.poison(DType.F64, n, out);
        Tensor dx = Samples.poison(DType.F64, n, in);
        Tensor u = linear.forward(s, use, x, null, y);
        linear.backward(s, use, dy, x, u, false, dx);
        s.release(u);
        Supplier<Double> loss = () -> {
            s.release(linear.forward(s, use, x, null, y.fill(Double.NaN)));
            double sum = 0;
            for (long i = 0; i < y.size(); i++) {
                sum += y.get(i) * dy.get(i);
            }
            return sum;
        };
        Differences.check("x", x, loss, dx);
        Differences.check("A", pair.a(), loss, pair.dA());
        Differences.check("B", pair.b(), loss, pair.dB());
        if (bias) {
            Differences.check("bias", beta, loss, dBias);
        }
        if (!nf4) {
            Differences.check("W", w, loss, dW);
        }
    }

    /** Four features and more: with fewer, rows that the adapter all but cancels are frequent, whose norm has few digits. */
    @Property(tries = 20, edgeCases = EdgeCasesMode.NONE)
    void doraIsItsEquationAndGradientsAreTheDifferences(@ForAll @IntRange(min = 4, max = 10) int in,
            @ForAll @IntRange(min = 1, max = 8) int out, @ForAll @IntRange(min = 1, max = 4) int rank,
            @ForAll boolean nf4, @ForAll boolean dropout, @ForAll @IntRange(min = 0, max = 1_000_000) int seed) {
        DoraTest.checkAgainstTheEquation(
                new DoraTest.Layer(scalar, DType.F64, in, out, rank, nf4, dropout ? 0.3 : 0, seed));
    }

    @Example
    void shapesThatDoNotFitAreRefused() {
        Tensor w = Tensor.zeros(DType.F32, 4, 5);
        for (Tensor[] ab : new Tensor[][]{{Tensor.zeros(DType.F32, 2, 6), Tensor.zeros(DType.F32, 4, 2)},
                {Tensor.zeros(DType.F32, 2, 5), Tensor.zeros(DType.F32, 3, 2)},
                {Tensor.zeros(DType.F32, 2, 5), Tensor.zeros(DType.F32, 4, 3)}}) {
            assertThatIllegalArgumentException().isThrownBy(
                    () -> Merging.merge(w, new AdapterWeights(ab[0], ab[1], null), 1))
                    .withMessageContainingAll("" + ab[0], "" + ab[1], "" + w);
        }
        assertThatIllegalArgumentException().isThrownBy(() -> Merging.merge(Tensor.zeros(DType.BF16, 4, 5),
                new AdapterWeights(Tensor.zeros(DType.F32, 2, 5), Tensor.zeros(DType.F32, 4, 2), null), 1))
                .withMessageContaining("BF16");
    }
}
