package qlora4j.blockwise;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.EdgeCasesMode;
import net.jqwik.api.Example;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.Tag;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Quantize and dequantize: the Vector API kernels against the scalar ones, bit for bit, at awkward sizes and values. */
@Tag("lanes")
class VectorEqualsScalarTest {
    private static final int TRIES = 150;

    private static Backend scalar;
    private static Backend cpu;

    @BeforeContainer
    static void open() {
        scalar = Backends.open(Backend.SCALAR);
        cpu = Backends.open(Backend.CPU, null, 3);
    }

    @AfterContainer
    static void close() {
        scalar.close();
        cpu.close();
    }

    /** Numbers of one magnitude, with now and then a special one. */
    @Provide
    static Arbitrary<float[]> values() {
        Arbitrary<Float> usual = Arbitraries.floats().between(-1f, 1f);
        Arbitrary<Float> special = Arbitraries.of(0f, -0f, Float.MIN_VALUE, -Float.MIN_NORMAL, 1e-40f, Float.MAX_VALUE,
                Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY, Float.NaN);
        Arbitrary<Integer> specials = Arbitraries.of(0, 0, 1, 20);
        Arbitrary<Float> scale = Arbitraries.of(1f, 1e-3f, 3e38f, 1e-38f, 1e-44f, 0f);
        Arbitrary<Integer> size = Arbitraries.oneOf(Arbitraries.integers().between(0, 300),
                Arbitraries.of(4095, 4097, 33_000, 65_537));
        return Combinators.combine(size, specials, scale, usual.array(float[].class).ofSize(61),
                special.array(float[].class).ofSize(7)).as(VectorEqualsScalarTest::mix);
    }

    private static float[] mix(int n, int specials, float scale, float[] usual, float[] special) {
        float[] x = new float[n];
        for (int i = 0; i < n; i++) {
            // 61 and the block sizes have no common factor: blocks differ.
            x[i] = usual[i % usual.length] * scale;
        }
        for (int s = 0; s < specials && n > 0; s++) {
            x[(int) ((s * 7919L + n / 2) % n)] = special[s % special.length];
        }
        return x;
    }

    @Provide
    static Arbitrary<Integer> blocksizes() {
        return Arbitraries.integers().between(5, 12).map(log -> 1 << log);
    }

    @Provide
    static Arbitrary<DType> types() {
        return Arbitraries.of(DType.F32, DType.BF16, DType.F16, DType.F64);
    }

    @Property(tries = TRIES, edgeCases = EdgeCasesMode.NONE)
    void fourBit(@ForAll("values") float[] values, @ForAll QuantType type, @ForAll("blocksizes") int blocksize,
            @ForAll boolean nested, @ForAll("types") DType in, @ForAll("types") DType out) {
        Tensor x = Tensor.zeros(in, values.length).copyFrom(Tensor.of(values, values.length));
        QuantConfig config = new QuantConfig(type, blocksize, nested);
        QuantizedTensor a = Golden.poisoned(config, in, values.length);
        QuantizedTensor b = Golden.poisoned(config, in, values.length);
        Tensor outA = Golden.poisoned(out, values.length);
        Tensor outB = Golden.poisoned(out, values.length);
        fourBit(scalar, x, a, outA);
        fourBit(cpu, x, b, outB);
        Golden.assertSame("codes", b.packed(), a.packed());
        Golden.assertSame("absmax", b.absmax(), a.absmax());
        if (nested) {
            Golden.assertSame("absmax2", b.absmax2(), a.absmax2());
            Golden.assertSame("offset", b.offset(), a.offset());
        }
        Golden.assertSame("dequantized", outB, outA);
    }

    private static void fourBit(Backend backend, Tensor x, QuantizedTensor w, Tensor out) {
        try (Stream stream = backend.openStream()) {
            Blockwise.quantize(stream, x, w);
            Blockwise.dequantize(stream, w, out);
        }
    }

    /** A block begins with 1, its constant, so that its other numbers are compared as they are. */
    @Example
    void everyThresholdEveryCellAndTheirNeighbours() {
        for (QuantType type : QuantType.values()) {
            List<Float> x = new ArrayList<>();
            for (float t : type.codebook().thresholds()) {
                around(t, x);
                around(-t, x);
            }
            // Edges and middles of the cells that VectorThresholds cuts -1..1 into.
            for (int half = -30; half <= 30; half++) {
                around(half / 30f, x);
            }
            float[] values = new float[2 * x.size()];
            Arrays.fill(values, 1f);
            for (int i = 0; i < x.size(); i++) {
                values[2 * i + 1] = x.get(i);
            }
            fourBit(values, type, 64, false, DType.F32, DType.F32);
        }
    }

    private static void around(float x, List<Float> target) {
        for (float each : new float[]{Math.nextDown(x), x, Math.nextUp(x)}) {
            target.add(Math.clamp(each, -1f, 1f));
        }
    }

    @Property(tries = TRIES, edgeCases = EdgeCasesMode.NONE)
    void eightBit(@ForAll("values") float[] values, @ForAll DynamicMap map, @ForAll("blocksizes") int blocksize,
            @ForAll boolean shifted, @ForAll("types") DType in, @ForAll("types") DType out) {
        int n = values.length;
        Tensor x = Tensor.zeros(in, n).copyFrom(Tensor.of(values, n));
        Tensor offset = shifted ? Tensor.of(new float[]{0.25f}, 1) : null;
        Tensor[] a = {Golden.poisoned(DType.U8, n), Golden.poisoned(DType.F32, QuantConfig.blocks(n, blocksize)),
                Golden.poisoned(out, n)};
        Tensor[] b = {Golden.poisoned(DType.U8, n), Golden.poisoned(DType.F32, QuantConfig.blocks(n, blocksize)),
                Golden.poisoned(out, n)};
        eightBit(scalar, x, offset, map, blocksize, a);
        eightBit(cpu, x, offset, map, blocksize, b);
        Golden.assertSame("codes", b[0], a[0]);
        Golden.assertSame("absmax", b[1], a[1]);
        Golden.assertSame("dequantized", b[2], a[2]);
    }

    private static void eightBit(Backend backend, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor[] t) {
        try (Stream stream = backend.openStream()) {
            Blockwise.quantize8(stream, x, offset, map, blocksize, t[0], t[1]);
            Blockwise.dequantize8(stream, t[0], t[1], offset, map, blocksize, t[2]);
        }
    }

    @Property(tries = TRIES, edgeCases = EdgeCasesMode.NONE)
    void theMeanIsAChunkedDoubleSum(@ForAll("values") float[] values) {
        double total = 0;
        for (int from = 0; from < values.length; from += 256) {
            double sum = 0;
            for (int i = from; i < Math.min(from + 256, values.length); i++) {
                sum += values[i];
            }
            total += sum;
        }
        float expected = values.length == 0 ? 0 : (float) (total / values.length);
        for (Backend backend : new Backend[]{scalar, cpu}) {
            try (Stream stream = backend.openStream()) {
                Tensor mean = Golden.poisoned(DType.F32, 1);
                stream.kernels(BlockwiseKernels.class).mean(stream, Tensor.of(values, values.length), mean);
                Golden.assertSame("mean", mean, Tensor.of(new float[]{expected}, 1));
            }
        }
    }
}
