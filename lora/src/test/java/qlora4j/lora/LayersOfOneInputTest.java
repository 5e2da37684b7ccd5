package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Layers that take the same x in one operation give the bits of each on its own. */
class LayersOfOneInputTest {
    private static final int IN = 64;

    private static List<Linear> layers(Stream s, DType type) {
        Linear plain = layer(s, 0, type, 7);
        Linear adapted = layer(s, 1, type, 33);
        Linear other = layer(s, 2, type, 5);
        adapted.set(0, pair(10, 4, 33, 0.5));
        other.set(0, pair(12, 9, 5, 2));
        return List.of(plain, adapted, other);
    }

    private static LoraPair pair(int seed, int rank, int out, double scale) {
        return new LoraPair(Samples.random(seed, DType.F32, rank, IN), Samples.random(seed + 1, DType.F32, out, rank),
                scale, Tensor.zeros(DType.F32, rank, IN), Tensor.zeros(DType.F32, out, rank));
    }

    private static Linear layer(Stream s, int i, DType type, int out) {
        return new Linear("layer" + i, i, Samples.quantized(s, Samples.random(i, type, out, IN)),
                Samples.random(20 + i, type, out));
    }

    @ParameterizedTest
    @CsvSource({"scalar,F32,1,0", "scalar,BF16,5,0", "scalar,F32,6,0.3", "cpu,F32,1,0", "cpu,BF16,6,0.3"})
    void equalEachOnItsOwn(String backend, DType type, int rows, double dropout) {
        try (Backend b = Backends.open(backend, null, 1); Stream s = b.openStream()) {
            List<Linear> layers = layers(s, type);
            Adapters adapters = new Adapters(0, null, dropout == 0 ? null : Samples.dropout(dropout, rows));
            Tensor x = Samples.random(30, type, rows, IN);
            Tensor[] y = new Tensor[layers.size()];
            for (int i = 0; i < y.length; i++) {
                y[i] = Samples.poison(type, rows, layers.get(i).outFeatures());
            }
            Linear.Inner u = Linear.forward(s, adapters, layers, x, y);
            assertThat(u.of()[0]).isNull();
            for (int i = 0; i < y.length; i++) {
                Tensor alone = Samples.poison(type, rows, layers.get(i).outFeatures());
                Tensor ownU = layers.get(i).forward(s, adapters, x, null, alone);
                assertThat(y[i].toFloats()).containsExactly(alone.toFloats());
                if (ownU != null) {
                    assertThat(u.of()[i].toFloats()).containsExactly(ownU.toFloats());
                }
                s.release(ownU);
            }
            backward(s, layers, adapters, x, u);
            s.release(u.memory());
        }
    }

    /** dx and the adapters' gradients, together and each layer on its own. */
    private static void backward(Stream s, List<Linear> layers, Adapters adapters, Tensor x, Linear.Inner u) {
        Tensor[] dy = new Tensor[layers.size()];
        for (int i = 0; i < dy.length; i++) {
            dy[i] = Samples.random(40 + i, x.dtype(), x.rows(), layers.get(i).outFeatures());
        }
        Tensor dx = Samples.poison(x.dtype(), x.rows(), IN);
        Linear.backward(s, adapters, layers, dy, x, u, dx);
        List<float[]> together = gradients(layers);
        Tensor alone = Samples.poison(x.dtype(), x.rows(), IN);
        for (int i = 0; i < dy.length; i++) {
            layers.get(i).backward(s, adapters, dy[i], x, u.of()[i], i > 0, alone);
        }
        assertThat(dx.toFloats()).containsExactly(alone.toFloats());
        List<float[]> apart = gradients(layers);
        for (int i = 0; i < apart.size(); i++) {
            assertThat(together.get(i)).containsExactly(apart.get(i)).doesNotContain(Float.NaN);
        }
    }

    /** Roundings of du differ, which may be computed beside another product, and one of dx in bfloat16. */
    @ParameterizedTest
    @CsvSource({"scalar,F32,6,0", "scalar,BF16,5,0", "cpu,F32,37,0", "cpu,BF16,20,0", "cpu,F32,9,0.3"})
    void dxMayTakeThePlaceOfX(String backend, DType type, int rows, double dropout) {
        try (Backend b = Backends.open(backend, null, 1); Stream s = b.openStream()) {
            List<Linear> layers = layers(s, type);
            Adapters adapters = new Adapters(0, null, dropout == 0 ? null : Samples.dropout(dropout, rows));
            for (Linear layer : layers) {
                Tensor x = Samples.random(30, type, rows, IN);
                Tensor dy = Samples.random(31, type, rows, layer.outFeatures());
                Tensor u = layer.forward(s, adapters, x, null, Samples.poison(type, rows, layer.outFeatures()));
                Tensor expected = Samples.poison(type, rows, IN);
                layer.backward(s, adapters, dy, x, u, false, expected);
                List<float[]> gradients = gradients(List.of(layer));
                Tensor dx = layer.backwardInPlace(s, adapters, dy, x, u);
                assertThat(dx).isSameAs(x);
                expectClose(dx.toFloats(), expected.toFloats(), type);
                List<float[]> inPlace = gradients(List.of(layer));
                for (int i = 0; i < gradients.size(); i++) {
                    expectClose(inPlace.get(i), gradients.get(i), type);
                }
                s.release(u);
            }
        }
    }

    private static void expectClose(float[] actual, float[] expected, DType type) {
        double off = 0;
        double all = 0;
        for (int i = 0; i < expected.length; i++) {
            off += Math.pow(actual[i] - expected[i], 2);
            all += Math.pow(expected[i], 2);
        }
        assertThat(all).isPositive();
        assertThat(Math.sqrt(off / all)).isLessThanOrEqualTo(type == DType.BF16 ? 0x1p-7 : 1e-6);
    }

    /** All gradients, which are then set to zero. */
    private static List<float[]> gradients(List<Linear> layers) {
        List<float[]> all = new ArrayList<>();
        for (Linear l : layers) {
            if (l.get(0) != null) {
                for (Tensor grad : List.of(l.get(0).dA(), l.get(0).dB())) {
                    all.add(grad.toFloats());
                    grad.fill(0);
                }
            }
        }
        return all;
    }
}
