package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The layer on the cpu backend against the scalar one, outputs and scratch poisoned with NaN; one thread against three,
 * bit for bit. The bound is the numeric contract's, {@code n·ε·Σ|aᵢ·bᵢ|}: the sum of magnitudes is what the scalar
 * backend gives for the magnitudes of all inputs, n counts the terms of the sums that follow each other. In bfloat16
 * each of the at most eight tensors between an input and an output is rounded by 2^-8 of that too.
 */
@Tag("lanes")
class VectorLoraTest {
    private static final double EPSILON = 0x1p-23;
    private static final double BF16_ROUNDINGS = 8 * 0x1p-8;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend ONE = Backends.open("cpu", null, 1);
    private static final Backend THREE = Backends.open("cpu", null, 3);

    @AfterAll
    static void close() {
        SCALAR.close();
        ONE.close();
        THREE.close();
    }

    /** A case: shapes, types, which adapters. */
    private record Case(int n, int in, int out, int rank, DType type, boolean nf4, boolean byRow, double p) {
        List<Tensor> run(Backend backend, boolean magnitudes) {
            try (Stream s = backend.openStream()) {
                Tensor w = Samples.random(1, type, out, in);
                LinearWeight weight = nf4 ? Samples.quantized(s, w) : new LinearWeight.Dense(w);
                if (magnitudes) {
                    weight = new LinearWeight.Dense(Samples.magnitudes(Samples.dense(s, weight, type)));
                }
                List<Tensor> gradients = new ArrayList<>();
                boolean dense = weight instanceof LinearWeight.Dense && !nf4;
                Tensor dW = dense ? add(gradients, out, in) : null;
                Tensor dBias = add(gradients, out);
                Linear linear = new Linear("layer", 2, weight, input(2, magnitudes, type, out), dW, dBias);
                for (int slot = 0; slot < 2; slot++) {
                    int r = Math.max(1, rank - slot);
                    Tensor a = input(10 + slot, magnitudes, DType.F32, r, in);
                    Tensor b = input(20 + slot, magnitudes, DType.F32, out, r);
                    linear.set(slot, new LoraPair(a, b, 0.5, add(gradients, r, in), add(gradients, out, r)));
                }
                int[] rows = new int[n];
                for (int i = 0; i < n; i++) {
                    rows[i] = i / 3 % 3 - 1;
                }
                Adapters adapters = new Adapters(0, byRow ? Tensor.of(rows, n) : null,
                        p == 0 ? null : Samples.dropout(p, n));
                Tensor x = input(3, magnitudes, type, n, in);
                Tensor residual = input(4, magnitudes, type, n, out);
                Tensor dy = input(5, magnitudes, type, n, out);
                Tensor y = Samples.poison(type, n, out);
                Tensor dx = Samples.poison(type, n, in);
                Tensor added = input(6, magnitudes, type, n, in);
                planned(backend, s, q -> {
                    Tensor u = linear.forward(q, adapters, x, residual, y);
                    linear.backward(q, adapters, dy, x, u, false, dx);
                    linear.backward(q, adapters, dy, x, u, true, added);
                    q.release(u);
                });
                gradients.addAll(List.of(y, dx, added));
                return gradients;
            }
        }

        private static Tensor add(List<Tensor> gradients, long... shape) {
            gradients.add(Tensor.zeros(DType.F32, shape));
            return gradients.getLast();
        }

        private static Tensor input(int seed, boolean magnitudes, DType type, long... shape) {
            Tensor t = Samples.random(seed, type, shape);
            return magnitudes ? Samples.magnitudes(t) : t;
        }

        /** Runs a step in an arena full of NaN. */
        private static void planned(Backend backend, Stream s, java.util.function.Consumer<Stream> step) {
            ArenaPlan plan = ArenaPlan.of(step);
            try (Allocation arena = backend.allocate(Math.max(1, plan.bytes()), MemoryUse.ACTIVATIONS)) {
                arena.data().fill((byte) 0xff);
                s.begin(plan, arena);
                step.accept(s);
                s.end();
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1,1,1,F32,false,false,0", "3,17,5,2,F32,false,true,0.3", "37,100,33,8,F32,false,false,0.05",
            "37,64,96,5,F32,true,true,0", "18,65,127,3,F32,true,true,0.1", "7,128,31,16,F32,true,false,0.1",
            "2,130,66,4,F32,true,false,0", "1100,70,20,3,F32,true,false,0", "53,193,40,40,F32,false,false,0.1",
            "61,64,65,24,F32,true,false,0", "19,96,70,4,BF16,true,true,0.1", "5,33,64,3,BF16,false,false,0"})
    void equalsScalar(int n, int in, int out, int rank, DType type, boolean nf4, boolean byRow, double p) {
        Case c = new Case(n, in, out, rank, type, nf4, byRow, p);
        double relative = EPSILON * (n + in + out + rank + 8) + (type == DType.BF16 ? BF16_ROUNDINGS : 0);
        check(c.run(SCALAR, false), c.run(SCALAR, true), c.run(ONE, false), c.run(THREE, false), relative);
    }

    /** Three layers of one input, the second without an adapter, the third dense and with another rank. */
    private record Group(int n, int in, int[] out, int[] rank, DType type) {
        List<Tensor> run(Backend backend, boolean magnitudes) {
            try (Stream s = backend.openStream()) {
                List<Tensor> results = new ArrayList<>();
                List<Linear> layers = new ArrayList<>();
                Tensor[] y = new Tensor[out.length];
                Tensor[] dy = new Tensor[out.length];
                for (int i = 0; i < out.length; i++) {
                    Tensor w = Samples.random(i, type, out[i], in);
                    LinearWeight weight = i < 2 ? Samples.quantized(s, w) : new LinearWeight.Dense(w);
                    if (magnitudes) {
                        weight = new LinearWeight.Dense(Samples.magnitudes(Samples.dense(s, weight, type)));
                    }
                    Linear layer = new Linear("layer" + i, i, weight, Case.input(10 + i, magnitudes, type, out[i]));
                    if (rank[i] > 0) {
                        layer.set(0, new LoraPair(Case.input(20 + i, magnitudes, DType.F32, rank[i], in),
                                Case.input(30 + i, magnitudes, DType.F32, out[i], rank[i]), 0.5,
                                Case.add(results, rank[i], in), Case.add(results, out[i], rank[i])));
                    }
                    layers.add(layer);
                    y[i] = Samples.poison(type, n, out[i]);
                    dy[i] = Case.input(40 + i, magnitudes, type, n, out[i]);
                }
                Tensor x = Case.input(3, magnitudes, type, n, in);
                Tensor dx = Samples.poison(type, n, in);
                Case.planned(backend, s, q -> {
                    Linear.Inner u = Linear.forward(q, Adapters.of(0), layers, x, y);
                    Linear.backward(q, Adapters.of(0), layers, dy, x, u, dx);
                    q.release(u.memory());
                });
                results.addAll(List.of(y));
                results.add(dx);
                return results;
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"3,64,5,4,F32", "37,100,33,8,F32", "50,65,130,16,F32", "530,64,20,40,F32", "9,200,70,24,BF16"})
    void layersOfOneInput(int n, int in, int out, int rank, DType type) {
        Group g = new Group(n, in, new int[]{out, 7, out + 3}, new int[]{rank, 0, 5}, type);
        double relative = EPSILON * (n + in + 2 * out + 2 * rank + 30) + (type == DType.BF16 ? BF16_ROUNDINGS : 0);
        check(g.run(SCALAR, false), g.run(SCALAR, true), g.run(ONE, false), g.run(THREE, false), relative);
    }

    private static void check(List<Tensor> expected, List<Tensor> magnitude, List<Tensor> one, List<Tensor> three,
            double relative) {
        for (int t = 0; t < expected.size(); t++) {
            for (long i = 0; i < expected.get(t).size(); i++) {
                double e = expected.get(t).get(i);
                assertThat(e).as("the reference writes output %d, element %d", t, i).isFinite();
                assertThat(Math.abs(one.get(t).get(i) - e))
                        .as("output %d, element %d: %s and %s", t, i, one.get(t).get(i), e)
                        .isLessThanOrEqualTo(relative * magnitude.get(t).get(i));
            }
            assertThat(three.get(t).data().mismatch(one.get(t).data())).as("threads change nothing in output %d", t)
                    .isEqualTo(-1);
        }
    }
}
