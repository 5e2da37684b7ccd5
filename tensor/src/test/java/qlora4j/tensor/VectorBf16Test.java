package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Runs of bfloat16 are converted as single elements are, bit for bit. */
@Tag("lanes")
class VectorBf16Test {
    private static final int GUARD = 3;

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 1 << 16})
    void loadsAddsAndStores(int n) {
        Tensor source = Tensor.zeros(DType.BF16, n + 1);
        for (int i = 0; i <= n; i++) {
            // Every bit pattern, where n is large enough.
            source.data().set(ValueLayout.JAVA_SHORT_UNALIGNED, 2L * i, (short) (i * 40503 + 0x7f7e));
        }
        float[] loaded = new float[n + GUARD];
        float[] added = new float[n + GUARD];
        Arrays.fill(added, 1.5f);
        Floats.load(source, 1, n, loaded, 1);
        Floats.add(source, 1, n, added, 1);
        for (int i = 0; i < n; i++) {
            same(loaded[1 + i], (float) source.get(1 + i));
            same(added[1 + i], 1.5f + (float) source.get(1 + i));
        }
        assertThat(new float[]{loaded[0], loaded[n + 1], added[0] - 1.5f, added[n + 1] - 1.5f}).containsOnly(0f);
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 3 << 16})
    void rounds(int n) {
        Random random = new Random(n);
        float[] in = new float[n];
        for (int i = 0; i < n; i++) {
            // The bits that are rounded away: none, a tie, any.
            int lower = i >> 16 == 0 ? 0 : i >> 16 == 1 ? 0x8000 : random.nextInt(1 << 16);
            in[i] = Float.intBitsToFloat((n < 1 << 16 ? random.nextInt() : i << 16) | lower);
        }
        Tensor stored = Tensor.zeros(DType.BF16, n + GUARD);
        Floats.store(in, 0, n, stored, 1);
        for (int i = 0; i < n; i++) {
            short bits = stored.data().get(ValueLayout.JAVA_SHORT_UNALIGNED, 2L * (1 + i));
            assertThat(bits).as("%08x", Float.floatToRawIntBits(in[i])).isEqualTo(DType.floatToBf16(in[i]));
        }
        assertThat(new double[]{stored.get(0), stored.get(n + 1), stored.get(n + 2)}).containsOnly(0.0);
        float[] inPlace = new float[n + GUARD];
        System.arraycopy(in, 0, inPlace, 1, n);
        inPlace[n + 1] = Float.MIN_VALUE;
        Floats.round(DType.BF16, inPlace, 1, n);
        for (int i = 0; i < n; i++) {
            same(inPlace[1 + i], DType.bf16ToFloat(DType.floatToBf16(in[i])));
        }
        assertThat(inPlace[n + 1]).isEqualTo(Float.MIN_VALUE);
    }

    private static void same(float actual, float expected) {
        if (Float.isNaN(expected)) {
            assertThat(actual).isNaN();
        } else {
            assertThat(Float.floatToRawIntBits(actual)).isEqualTo(Float.floatToRawIntBits(expected));
        }
    }
}
