package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import qlora4j.blockwise.ExactInt8;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The logits of a head that is 8 bits without loss are those of its floats, and another head's are its own. */
class ExactHeadTest {
    private static final int VOCAB = 70;
    private static final int HIDDEN = 96;

    /** A constant a block times whole numbers, 127 among them. */
    private static Tensor eightBits(long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        Tensor w = Tensor.zeros(DType.F32, VOCAB, HIDDEN);
        for (long block = 0; block < w.size() / ExactInt8.BLOCK; block++) {
            float scale = Float.float16ToFloat(Float.floatToFloat16((float) random.nextDouble(1e-3, 1e-2)));
            for (int i = 0; i < ExactInt8.BLOCK; i++) {
                w.set(block * ExactInt8.BLOCK + i, (i == 5 ? 127 : random.nextInt(-127, 128)) * scale);
            }
        }
        return w;
    }

    private static double[] logits(Backend backend, ExactHead head, Tensor x, Tensor w) {
        Tensor y = Tensor.zeros(DType.F32, x.rows(), VOCAB).fill(Double.NaN);
        try (Stream s = backend.openStream()) {
            head.logits(s, x, w, y);
        }
        double[] values = new double[(int) y.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = y.get(i);
        }
        return values;
    }

    @Test
    void logitsAreThoseOfTheFloats() {
        for (String name : new String[]{Backend.SCALAR, Backend.CPU}) {
            try (Backend backend = Backends.open(name, null, 2)) {
                Tensor w = eightBits(1);
                Tensor other = eightBits(2);
                ExactHead floats = new ExactHead();
                ExactHead held = new ExactHead();
                held.look(backend, w);
                assertThat(floats.bytes(w)).isEqualTo(4L * VOCAB * HIDDEN);
                assertThat(held.bytes(w)).isEqualTo(VOCAB * (HIDDEN + 4L * HIDDEN / ExactInt8.BLOCK));
                assertThat(held.bytes(other)).isEqualTo(4L * VOCAB * HIDDEN);
                for (int rows : new int[]{1, 4, 5}) {
                    Tensor x = VectorDecoderTest.random(rows, DType.F32, rows, HIDDEN);
                    for (Tensor head : new Tensor[]{w, other}) {
                        double[] expected = logits(backend, floats, x, head);
                        double[] actual = logits(backend, held, x, head);
                        // Magnitudes: x up to about 4, w up to 1.27; n terms and a rounding of each block.
                        double bound = 2 * (HIDDEN + 3) * 0x1p-23 * HIDDEN * 4 * 1.27 / 4;
                        for (int i = 0; i < expected.length; i++) {
                            assertThat(Math.abs(actual[i] - expected[i]) <= bound).isTrue();
                        }
                        if (head == other) {
                            assertThat(actual).as("the product of the floats").isEqualTo(expected);
                        }
                    }
                }
            }
        }
    }

    @Test
    void aHeadIsLookedAtOnce() {
        try (Backend backend = Backends.open(Backend.SCALAR)) {
            ExactHead head = new ExactHead();
            Tensor other = VectorDecoderTest.random(3, DType.F32, VOCAB, HIDDEN);
            head.look(backend, other);
            head.look(backend, eightBits(1));
            assertThat(head.bytes(other)).isEqualTo(other.bytes());
        }
    }
}
