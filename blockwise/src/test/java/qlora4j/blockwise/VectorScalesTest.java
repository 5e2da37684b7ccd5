package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** {@link VectorScales} against {@link Scales}, bit for bit, from and to blocks around a second-level block's ends. */
@Tag("lanes")
class VectorScalesTest {
    private static final int BLOCKS = 700;

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void constantsAreThoseOfEachBlock(boolean nested) {
        try (Backend cpu = Backends.open(Backend.CPU); Stream s = cpu.openStream()) {
            QuantConfig config = new QuantConfig(QuantType.NF4, 32, nested);
            Tensor x = Tensor.zeros(DType.F32, BLOCKS * 32L);
            Random random = new Random(1);
            for (int i = 0; i < x.size(); i++) {
                x.set(i, random.nextGaussian() * Math.pow(2, random.nextInt(6)));
            }
            Scales scales = new Scales(Blockwise.quantize(s, x, config));
            int[] codes = new int[Lanes.L];
            for (int first : new int[]{0, 1, 200, 255, 256, 500}) {
                for (int n : new int[]{0, 1, 3, 4, 15, 16, 17, 56, 200}) {
                    float[] out = new float[n + 3];
                    out[n + 2] = 7;
                    VectorScales.get(scales, first, n, out, 2, codes);
                    for (int j = 0; j < n; j++) {
                        assertThat(Float.floatToRawIntBits(out[2 + j])).as("block %d of %d from %d", j, n, first)
                                .isEqualTo(Float.floatToRawIntBits(scales.get(first + j)));
                    }
                    assertThat(out[n + 2]).isEqualTo(7);
                }
            }
        }
    }
}
