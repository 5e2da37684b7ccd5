package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;

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
        adapted.set(0, new LoraPair(Samples.random(10, DType.F32, 4, IN), Samples.random(11, DType.F32, 33, 4), 0.5));
        other.set(0, new LoraPair(Samples.random(12, DType.F32, 9, IN), Samples.random(13, DType.F32, 5, 9), 2));
        return List.of(plain, adapted, other);
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
            Tensor[] u = Linear.forward(s, adapters, layers, x, y);
            assertThat(u[0]).isNull();
            for (int i = 0; i < y.length; i++) {
                Tensor alone = Samples.poison(type, rows, layers.get(i).outFeatures());
                Tensor ownU = layers.get(i).forward(s, adapters, x, null, alone);
                assertThat(y[i].toFloats()).containsExactly(alone.toFloats());
                if (ownU != null) {
                    assertThat(u[i].toFloats()).containsExactly(ownU.toFloats());
                }
                s.release(ownU, u[i]);
            }
        }
    }
}
