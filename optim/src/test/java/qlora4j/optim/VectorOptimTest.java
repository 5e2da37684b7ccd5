package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;

import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Example;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.Tag;
import net.jqwik.api.constraints.DoubleRange;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The Vector API twin gives the reference's bits: all sizes, denormals, infinities and NaN included. */
@Tag("lanes")
class VectorOptimTest {
    private static final int LONG = 2 * 16 * OptimKernels.CHUNK + OptimKernels.CHUNK + 13;
    private static Backend scalar;
    private static Backend cpu;
    private static Stream scalarStream;
    private static Stream cpuStream;

    @BeforeContainer
    static void open() {
        scalar = Backends.open("scalar");
        cpu = Backends.open("cpu", null, 3);
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

    @Provide
    Arbitrary<float[]> four() {
        Arbitrary<Float> any = Arbitraries.floats().withSpecialValue(Float.NaN)
                .withSpecialValue(Float.POSITIVE_INFINITY).withSpecialValue(Float.NEGATIVE_INFINITY)
                .withSpecialValue(-0f).withSpecialValue(Float.MIN_VALUE).withSpecialValue(-Float.MIN_NORMAL / 3);
        Arbitrary<Float> usual = Arbitraries.floats().between(-2, 2).ofScale(7);
        Arbitrary<Float> tiny = Arbitraries.integers().between(-0x900000, 0x900000)
                .map(i -> Math.copySign(Float.intBitsToFloat(Math.abs(i)), i));
        return Arbitraries.oneOf(usual, tiny, any).array(float[].class).ofMinSize(0).ofMaxSize(4 * 75);
    }

    @Property(tries = 300)
    void adamWIsBitIdentical(@ForAll("four") float[] four, @ForAll AdamHyper.Formula formula,
            @ForAll @DoubleRange(min = 0, max = 1) double clip, @ForAll @DoubleRange(min = 0, max = 0.5) double decay) {
        int n = four.length / 4;
        Tensor[] start = new Tensor[4];
        for (int k = 0; k < 4; k++) {
            start[k] = Tensor.zeros(DType.F32, n);
            for (int i = 0; i < n; i++) {
                start[k].set(i, four[4 * i + k]);
            }
        }
        assertSame(formula, start, clip, decay);
    }

    @Example
    void adamWIsBitIdenticalOverManyTasks() {
        for (AdamHyper.Formula formula : AdamHyper.Formula.values()) {
            Tensor v = Bits.normal(DType.F32, 4, LONG, 1e-2);
            for (int i = 0; i < LONG; i++) {
                v.set(i, v.get(i) * v.get(i));
            }
            assertSame(formula, new Tensor[]{Bits.normal(DType.F32, 1, LONG, 1), Bits.normal(DType.F32, 2, LONG, 1e-2),
                    Bits.normal(DType.F32, 3, LONG, 1e-3), v}, 0.37, 0.01);
        }
    }

    private static void assertSame(AdamHyper.Formula formula, Tensor[] start, double clip, double decay) {
        AdamHyper hyper = new AdamHyper(formula, 0.9, 0.999, 1e-8, decay, 1.5);
        Tensor scalars = Bits.scalars(1e-3, 0.271, 0.0547, clip);
        Tensor[] reference = run(scalarStream, hyper, start, scalars);
        Tensor[] vector = run(cpuStream, hyper, start, scalars);
        for (int k = 0; k < 4; k++) {
            assertThat(Bits.of(vector[k])).isEqualTo(Bits.of(reference[k]));
        }
        assertThat(Bits.of(vector[1])).isEqualTo(Bits.of(start[1]));
    }

    private static Tensor[] run(Stream stream, AdamHyper hyper, Tensor[] start, Tensor scalars) {
        Tensor[] t = new Tensor[4];
        for (int k = 0; k < 4; k++) {
            t[k] = Bits.copy(start[k]);
        }
        Optim.adamW(stream, hyper, t[0], t[1], t[2], t[3], scalars);
        return t;
    }

    @Property(tries = 200)
    void countsAndSmallSumsAreIdentical(@ForAll("four") float[] values) {
        Tensor x = Tensor.of(values, values.length);
        long bad = 0;
        for (float v : values) {
            bad += Float.isFinite(v) ? 0 : 1;
        }
        assertThat(Optim.nonFinite(scalarStream, x)).isEqualTo(bad);
        assertThat(Optim.nonFinite(cpuStream, x)).isEqualTo(bad);
        double reference = sum(scalarStream, x);
        assertThat(Double.doubleToLongBits(sum(cpuStream, x))).isEqualTo(Double.doubleToLongBits(reference));
        assertThat(Double.isFinite(reference)).isEqualTo(bad == 0);
    }

    @Example
    void sumsAreIdenticalOnAnyNumberOfThreads() {
        for (int n : new int[]{OptimKernels.CHUNK - 1, OptimKernels.CHUNK, 5 * OptimKernels.CHUNK + 3, LONG}) {
            Tensor x = Bits.normal(DType.F32, n, n, 1);
            double reference = sum(scalarStream, x);
            double exact = 0;
            for (float v : x.toFloats()) {
                exact += (double) v * v;
            }
            // Two sums of n squares in double, each within n * 2^-53 of the true one.
            assertThat(Math.abs(reference - exact) <= 2.0 * n * 0x1p-53 * exact).as("%s, %s", reference, exact)
                    .isTrue();
            for (int threads : new int[]{1, 2, 5}) {
                try (Backend backend = Backends.open("cpu", null, threads); Stream stream = backend.openStream()) {
                    assertThat(sum(stream, x)).isEqualTo(reference);
                }
            }
        }
    }

    private static double sum(Stream stream, Tensor x) {
        Tensor scalars = stream.backend().allocate(MemoryUse.WORKSPACE, DType.F64, OptimScalars.SIZE);
        Optim.clip(stream, x, 1, scalars);
        return scalars.get(OptimScalars.SUM_OF_SQUARES);
    }
}
