package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.Dropout;
import qlora4j.lora.GatedLinear;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The layers around SwiGLU, whose middle the cpu backend makes as it is read and beside its gradients. */
@Tag("lanes")
class GatedLayersTest {
    private static final int SEED = 11;

    /**
     * @param in features of x and of the output, {@code f} of the middle
     * @param adapted bits of the layers that have adapters, of ranks {@code rank}, {@code rank + 1} and {@code rank + 2}
     * @param made whether the middle is made by an operation of its own, forward and again backward
     */
    private record Case(DType type, int n, int in, int f, int rank, int adapted, double dropout, boolean made) {
        private Linear layer(Stream s, int index, int out, int width, List<Tensor> outputs) {
            Tensor w = VectorDecoderTest.random(SEED + index, type, out, width);
            for (long i = 0; i < w.size(); i++) {
                w.set(i, w.get(i) / Math.sqrt(width));
            }
            Linear l = new Linear("layer" + index, index,
                    new LinearWeight.Quantized(Blockwise.quantize(s, w, QuantConfig.QLORA)),
                    index == 1 ? null : VectorDecoderTest.random(SEED + 10 + index, type, out));
            if ((adapted >> index & 1) != 0) {
                int r = rank + index;
                Tensor dA = Tensor.zeros(DType.F32, r, width);
                Tensor dB = Tensor.zeros(DType.F32, out, r);
                l.set(0, new LoraPair(VectorDecoderTest.random(SEED + 20 + index, DType.F32, r, width),
                        VectorDecoderTest.random(SEED + 30 + index, DType.F32, out, r), 0.02, dA, dB));
                outputs.addAll(List.of(dA, dB));
            }
            return l;
        }

        /** Everything that forward and backward write. */
        List<Tensor> run(Stream s) {
            List<Tensor> outputs = new ArrayList<>();
            List<Linear> first = List.of(layer(s, 0, f, in, outputs), layer(s, 1, f, in, outputs));
            Linear down = layer(s, 2, in, f, outputs);
            Tensor x = VectorDecoderTest.random(SEED + 40, type, n, in);
            Tensor residual = VectorDecoderTest.random(SEED + 41, type, n, in);
            Tensor dy = VectorDecoderTest.random(SEED + 42, type, n, in);
            Tensor gate = poison(n, f);
            Tensor up = poison(n, f);
            Tensor middle = poison(n, f);
            Tensor y = poison(n, in);
            int[] rows = new int[n];
            Adapters use = new Adapters(0, null, dropout == 0 ? null
                    : new Dropout(dropout, SEED, Tensor.of(new int[]{3}, 1), Tensor.of(rows, n), Tensor.of(rows, n)));
            GatedLinear.Inners u =
                    GatedLinear.forward(s, use, first, x, gate, up, true, down, middle, made, residual, y,
                            List.of(), DecoderOps.SWIGLU);
            for (Tensor kept : List.of(gate, up)) {
                outputs.add(Tensor.zeros(type, n, f).copyFrom(kept));
            }
            if (!made) {
                middle.fill(Double.NaN);
            }
            GatedLinear.backward(s, use, down, dy, middle, made, u.behind(), gate, up, DecoderOps.SWIGLU);
            Tensor dx = poison(n, in);
            Linear.backward(s, use, first, new Tensor[]{gate, up}, x, u.of(), dx);
            s.release(u.of().memory(), u.behind());
            outputs.addAll(List.of(y, gate, up, dx));
            return outputs;
        }

        private Tensor poison(long... shape) {
            return Tensor.zeros(type, shape).fill(Double.NaN);
        }

        List<Tensor> on(String backend, int threads) {
            try (Backend b = Backends.open(backend, null, threads); Stream s = b.openStream()) {
                return run(s);
            }
        }
    }

    /**
     * Against the scalar backend: in float32 sums of n terms are off by some √n roundings, in bfloat16 what is rounded on
     * the way falls on the neighbour now and then, of some ten roundings. Threads, and whether the middle is made by an
     * operation of its own, change no bit.
     */
    @ParameterizedTest
    @CsvSource({"F32,37,64,130,9,7,0", "F32,60,70,48,16,4,0", "F32,3,64,72,8,7,0", "F32,14,64,64,40,7,0",
            "F32,25,72,66,4,0,0", "F32,9,64,40,4,7,0.3", "BF16,37,64,130,9,7,0", "BF16,20,40,200,3,3,0"})
    void equalsScalar(DType type, int n, int in, int f, int rank, int adapted, double dropout) {
        Case apart = new Case(type, n, in, f, rank, adapted, dropout, true);
        Case fused = new Case(type, n, in, f, rank, adapted, dropout, false);
        List<Tensor> one = fused.on("cpu", 1);
        sameBits(one, fused.on("cpu", 3));
        sameBits(one, apart.on("cpu", 1));
        List<Tensor> expected = apart.on("scalar", 1);
        sameBits(expected, fused.on("scalar", 1));
        double rounding = type == DType.BF16 ? 8 * 0x1p-9 : 8 * Math.sqrt(Math.max(in, f)) * 0x1p-24;
        for (int t = 0; t < expected.size(); t++) {
            close(one.get(t), expected.get(t), rounding, t);
        }
    }

    private static void sameBits(List<Tensor> a, List<Tensor> b) {
        for (int t = 0; t < a.size(); t++) {
            assertThat(a.get(t).data().mismatch(b.get(t).data())).as("output %d", t).isEqualTo(-1);
        }
    }

    private static void close(Tensor actual, Tensor expected, double rounding, int t) {
        double off = 0;
        double all = 0;
        double most = 0;
        double largest = 0;
        for (long i = 0; i < expected.size(); i++) {
            double e = expected.get(i);
            double d = actual.get(i) - e;
            assertThat(d).as("output %d, element %d", t, i).isFinite();
            off += d * d;
            all += e * e;
            most = Math.max(most, Math.abs(d));
            largest = Math.max(largest, Math.abs(e));
        }
        assertThat(largest).as("output %d is not all zeros", t).isPositive();
        assertThat(Math.sqrt(off)).as("output %d", t).isLessThanOrEqualTo(rounding * Math.sqrt(all));
        assertThat(most).as("output %d", t).isLessThanOrEqualTo(4 * rounding * largest);
    }
}
