package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** {@link Lanes#sums} of many vectors against {@link Lanes#sum} of each, bit for bit, and against the sum in double. */
@Tag("lanes")
class VectorSumsTest {
    private static final int FROM = 5, AT = 3;

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 3, 4, 5, 8, 9, 15, 16, 17, 36, 64})
    void sumsAreThoseOfEachVector(int n) {
        int lanes = Lanes.L;
        Random random = new Random(n);
        float[] x = new float[FROM + n * lanes + 1];
        for (int i = 0; i < x.length; i++) {
            x[i] = (float) (random.nextGaussian() * Math.pow(2, random.nextInt(20)));
        }
        float[] sums = new float[AT + n + 1];
        sums[AT + n] = 7;
        float[] expected = new float[n];
        double[] exact = new double[n];
        double[] magnitude = new double[n];
        for (int j = 0; j < n; j++) {
            expected[j] = Lanes.sum(FloatVector.fromArray(Lanes.F, x, FROM + j * lanes));
            for (int lane = 0; lane < lanes; lane++) {
                exact[j] += x[FROM + j * lanes + lane];
                magnitude[j] += Math.abs(x[FROM + j * lanes + lane]);
            }
        }
        float behind = x[FROM + n * lanes];
        Lanes.sums(x, FROM, n, sums, AT);
        for (int j = 0; j < n; j++) {
            assertThat(Float.floatToRawIntBits(sums[AT + j])).as("sum %d of %d", j, n)
                    .isEqualTo(Float.floatToRawIntBits(expected[j]));
            // Each lane goes through log2(L) additions.
            assertThat(Math.abs(sums[AT + j] - exact[j])).isLessThanOrEqualTo(4 * 0x1p-24 * magnitude[j]);
        }
        assertThat(sums[AT + n]).isEqualTo(7);
        assertThat(x[FROM + n * lanes]).isEqualTo(behind);
    }
}
