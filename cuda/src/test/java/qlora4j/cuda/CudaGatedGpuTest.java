package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.cuda.SummedProducts.Output;
import qlora4j.cuda.SummedProducts.Term;
import qlora4j.lora.Dropout;
import qlora4j.lora.GatedLinear;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Layers around SwiGLU: its sums in {@code gemm_hopper.cu}, and the layers against the scalar backend. */
@Tag("gpu")
class CudaGatedGpuTest {
    private static final Twins TWINS = new Twins();
    /** With sums of products of {@code gemm_hopper.cu} at all sizes. */
    private static final Twins SUMMED = Twins.with(SummedProducts.PROPERTY, "always");
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
        SUMMED.close();
    }

    private static Tensor device(Tensor t) {
        return Gpu.device(SUMMED.cuda, t);
    }

    private static Tensor host(Tensor t) {
        return Gpu.host(SUMMED.cuda, t);
    }

    private static double[] doubles(Tensor t) {
        Tensor h = host(t);
        double[] all = new double[Math.toIntExact(h.size())];
        for (int i = 0; i < all.length; i++) {
            all[i] = h.get(i);
        }
        return all;
    }

    private Matrix[] operands(int rows, int[] cols) {
        Matrix[] all = new Matrix[cols.length];
        for (int i = 0; i < all.length; i++) {
            Tensor t = Gpu.normal(random, DType.BF16, rows, cols[i]);
            for (long j = 0; j < t.size(); j++) {
                t.set(j, t.get(j) / Math.sqrt(cols[i]));
            }
            all[i] = Matrix.of(device(t));
        }
        return all;
    }

    /** Products into a result of their own, without SwiGLU. */
    private static Tensor product(CudaStream s, Layout layout, int m, int n, Term... terms) {
        Tensor c = Gpu.poisoned(SUMMED.cuda, DType.BF16, m, n);
        SUMMED_PRODUCTS.multiply(s, layout, List.of(new Output(Matrix.of(c), null, null, List.of(terms))));
        return c;
    }

    private static final SummedProducts SUMMED_PRODUCTS = new SummedProducts(SUMMED.cuda);
    /** On one pair of multiprocessors, which makes all tiles one after the other. */
    private static final SummedProducts ONE_BY_ONE = new SummedProducts(SUMMED.cuda, 2);

    private static double sigma(double x) {
        return 1 / (1 + Math.exp(-x));
    }

    private static void near(Tensor actual, double[] expected, double spacings, double least) {
        for (int i = 0; i < expected.length; i++) {
            assertThat(Math.abs(actual.get(i) - expected[i])).as("element %d: %s and %s", i, actual.get(i), expected[i])
                    .isLessThanOrEqualTo(spacings * Twins.BF16_EPSILON * Math.abs(expected[i]) + least);
        }
    }

    /**
     * Gate and up are their products alone, but for the order in which an adapter's are summed, and as they are in both
     * cases; what is made of them is rounded twice.
     */
    @ParameterizedTest
    @CsvSource({"1,8,8,0,0", "130,264,72,8,16", "300,72,64,64,64", "257,520,1096,40,64", "600,136,840,100,36",
            "513,1032,200,8,120"})
    void forwardSums(int m, int n, int k, int gateRank, int upRank) {
        assumeTrue(SUMMED.cuda.modules().hopper("gemm_hopper"), "compute capability 9.0 is not there");
        int ranks = (gateRank + upRank) / 8 * 8;
        Matrix[] x = operands(m, ranks == 0 ? new int[]{k} : new int[]{k, ranks});
        Matrix[] gate = operands(n, ranks == 0 ? new int[]{k} : new int[]{k, gateRank / 8 * 8});
        Matrix[] up = operands(n, ranks == 0 ? new int[]{k} : new int[]{k, ranks - gateRank / 8 * 8});
        int shift = gateRank / 8 * 8;
        List<Term> gates = new ArrayList<>(List.of(new Term(x[0], gate[0])));
        List<Term> ups = new ArrayList<>(List.of(new Term(x[0], up[0])));
        List<Term> ownGates = new ArrayList<>(gates);
        List<Term> ownUps = new ArrayList<>(ups);
        if (ranks > 0) {
            gates.add(new Term(x[1], gate[1]));
            ups.add(new Term(x[1], up[1], shift));
            ownGates.add(new Term(x[1].columns(shift), gate[1]));
            ownUps.add(new Term(x[1].columns(shift, ranks - shift), up[1]));
        }
        try (CudaStream s = (CudaStream) SUMMED.cuda.openStream()) {
            double[] g = doubles(product(s, Layout.NT, m, n, ownGates.toArray(Term[]::new)));
            double[] u = doubles(product(s, Layout.NT, m, n, ownUps.toArray(Term[]::new)));
            double[] expected = new double[g.length];
            for (SummedProducts products : List.of(SUMMED_PRODUCTS, ONE_BY_ONE)) {
                for (boolean kept : new boolean[]{true, false}) {
                    Tensor[] y = new Tensor[3];
                    for (int i = 0; i < 3; i++) {
                        y[i] = Gpu.poisoned(SUMMED.cuda, DType.BF16, m, n);
                    }
                    List<Output> all = List.of(new Output(Matrix.of(y[0]), null, null, gates),
                            new Output(Matrix.of(y[1]), null, null, ups),
                            new Output(Matrix.of(y[2]), null, null, List.of()));
                    assertThat(products.canGate(all)).isTrue();
                    products.gated(s, Layout.NT, all, kept);
                    if (kept) {
                        near(host(y[0]), g, 1.1, 1e-5);
                        near(host(y[1]), u, 1.1, 1e-5);
                        double[] gateKept = doubles(y[0]);
                        double[] upKept = doubles(y[1]);
                        for (int i = 0; i < expected.length; i++) {
                            expected[i] = gateKept[i] * sigma(gateKept[i]) * upKept[i];
                        }
                    } else {
                        assertThat(host(y[0]).toFloats()).containsOnly(Float.NaN);
                        assertThat(host(y[1]).toFloats()).containsOnly(Float.NaN);
                    }
                    near(host(y[2]), expected, 1.1, 1e-30);
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"1,8,8,0", "130,264,72,8", "300,72,64,64", "257,520,1096,40", "600,136,840,96", "513,1032,200,120",
            "300,328,500,16"})
    void backwardSums(int m, int n, int k, int rank) {
        assumeTrue(SUMMED.cuda.modules().hopper("gemm_hopper"), "compute capability 9.0 is not there");
        k = k / 8 * 8;
        Matrix[] dy = operands(m, rank == 0 ? new int[]{k} : new int[]{k, rank});
        List<Term> terms = new ArrayList<>();
        for (Matrix d : dy) {
            terms.add(new Term(d, operands(d.cols(), new int[]{n})[0]));
        }
        Tensor gate = Gpu.normal(random, DType.BF16, m, n);
        Tensor up = Gpu.normal(random, DType.BF16, m, n);
        try (CudaStream s = (CudaStream) SUMMED.cuda.openStream()) {
            Tensor d = host(product(s, Layout.NN, m, n, terms.toArray(Term[]::new)));
            double[] dGate = new double[m * n];
            double[] dUp = new double[m * n];
            for (int i = 0; i < dUp.length; i++) {
                double g = gate.get(i);
                dGate[i] = d.get(i) * up.get(i) * sigma(g) * (1 + g * (1 - sigma(g)));
                dUp[i] = d.get(i) * g * sigma(g);
            }
            for (SummedProducts products : List.of(SUMMED_PRODUCTS, ONE_BY_ONE)) {
                for (boolean inPlace : new boolean[]{false, true}) {
                    Tensor g = device(gate);
                    Tensor u = device(up);
                    Tensor toGate = inPlace ? g : Gpu.poisoned(SUMMED.cuda, DType.BF16, m, n);
                    Tensor toUp = inPlace ? u : Gpu.poisoned(SUMMED.cuda, DType.BF16, m, n);
                    List<Output> all = List.of(new Output(Matrix.of(toGate), Matrix.of(g), null, terms),
                            new Output(Matrix.of(toUp), Matrix.of(u), null, List.of()));
                    assertThat(products.canGate(all)).isTrue();
                    products.gated(s, Layout.NN, all, false);
                    slopes(host(toGate), dGate, d, gate, up);
                    near(host(toUp), dUp, 0.6, 1e-30);
                }
            }
        }
    }

    /** Near the root of the slope, terms of it cancel: float32's rounding of them is what is left. */
    private static void slopes(Tensor actual, double[] expected, Tensor d, Tensor gate, Tensor up) {
        for (int i = 0; i < expected.length; i++) {
            double terms = Math.abs(d.get(i) * up.get(i)) * (1 + Math.abs(gate.get(i)));
            assertThat(Math.abs(actual.get(i) - expected[i])).as("element %d", i)
                    .isLessThanOrEqualTo(0.6 * Twins.BF16_EPSILON * Math.abs(expected[i]) + 0x1p-19 * terms);
        }
    }

    private record Case(long seed, int n, int in, int f, int rank, boolean kept, int adapted, double p) {
        private Linear layer(Twins.Run run, Random random, int index, int out, int in, List<Tensor> outputs) {
            Tensor w = Gpu.normal(random, DType.BF16, out, in);
            for (long i = 0; i < w.size(); i++) {
                w.set(i, w.get(i) / Math.sqrt(in));
            }
            Linear l = new Linear("layer" + index, index, new LinearWeight.Quantized(
                    Blockwise.quantize(run.s, run.in(w), new QuantConfig(QuantType.NF4, 64, true))), null);
            int r = rank + 8 * index;
            Tensor a = run.in(Gpu.normal(random, DType.F32, r, in));
            Tensor b = run.in(Gpu.normal(random, DType.F32, out, r));
            if ((adapted >> index & 1) != 0) {
                Tensor dA = run.in(Tensor.zeros(DType.F32, r, in));
                Tensor dB = run.in(Tensor.zeros(DType.F32, out, r));
                l.set(0, new LoraPair(a, b, 0.02, dA, dB));
                outputs.addAll(List.of(dA, dB));
            }
            return l;
        }

        Tensor[] run(Twins.Run run) {
            Random random = new Random(seed);
            List<Tensor> outputs = new ArrayList<>();
            List<Linear> first = List.of(layer(run, random, 0, f, in, outputs),
                    layer(run, random, 1, f, in, outputs));
            Linear down = layer(run, random, 2, in, f, outputs);
            Tensor x = run.in(Gpu.normal(random, DType.BF16, n, in));
            Tensor dy = run.in(Gpu.normal(random, DType.BF16, n, in));
            Tensor gate = run.out(DType.BF16, n, f);
            Tensor up = run.out(DType.BF16, n, f);
            Tensor middle = run.out(DType.BF16, n, f);
            Adapters use = new Adapters(0, null, p == 0 ? null
                    : new Dropout(p, seed, run.ints(3), run.ints(random.ints(n, 0, 9).toArray()),
                            run.ints(random.ints(n, 0, 99).toArray())));
            Linear.Inner u = GatedLinear.forward(run.s, use, first, x, gate, up, kept, middle, DecoderOps.SWIGLU);
            if (!kept) {
                return new Tensor[]{middle};
            }
            Tensor y = run.out(DType.BF16, n, in);
            Tensor ud = down.forward(run.s, use, middle, null, y);
            GatedLinear.backward(run.s, use, down, dy, middle, true, ud, gate, up, DecoderOps.SWIGLU);
            Tensor dx = run.out(DType.BF16, n, in);
            Linear.backward(run.s, use, first, new Tensor[]{gate, up}, x, u, dx);
            run.s.release(ud, u.memory());
            outputs.addAll(List.of(y, gate, up, dx));
            return outputs.toArray(Tensor[]::new);
        }
    }

    /** What is rounded to bfloat16 on the way falls on the neighbour now and then: of some ten roundings of 2^-9. */
    private static void close(Tensor[][] both) {
        for (int t = 0; t < both[0].length; t++) {
            double off = 0;
            double all = 0;
            double most = 0;
            double largest = 0;
            for (long i = 0; i < both[0][t].size(); i++) {
                double e = both[0][t].get(i);
                double d = both[1][t].get(i) - e;
                assertThat(d).as("output %d, element %d", t, i).isFinite();
                off += d * d;
                all += e * e;
                most = Math.max(most, Math.abs(d));
                largest = Math.max(largest, Math.abs(e));
            }
            assertThat(Math.sqrt(off)).as("output %d", t).isLessThanOrEqualTo(0.015 * Math.sqrt(all));
            assertThat(most).as("output %d", t).isLessThanOrEqualTo(0.05 * largest);
        }
    }

    @ParameterizedTest
    @CsvSource({"140,64,264,8,true,7,0", "300,264,136,16,true,7,0", "70,320,520,8,false,7,0", "130,296,72,8,true,0,0",
            "33,64,40,8,false,1,0", "40,72,104,8,true,2,0", "3,64,72,8,true,4,0", "140,64,264,8,true,7,0.3",
            "33,64,40,8,true,3,0.5"})
    void equalsScalar(int n, int in, int f, int rank, boolean kept, int adapted, double p) {
        Case c = new Case(random.nextLong(), n, in, f, rank, kept, adapted, p);
        close(TWINS.run(c::run));
        close(SUMMED.run(c::run));
    }
}
