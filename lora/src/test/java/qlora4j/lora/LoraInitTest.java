package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

class LoraInitTest {
    private static final int RANK = 64;
    private static final int IN = 1024;

    private static float[] a(long seed, int module) {
        Tensor a = Tensor.zeros(DType.F32, RANK, IN).fill(Double.NaN);
        LoraInit.kaimingUniform(a, seed, module);
        return a.toFloats();
    }

    @Test
    void isUniformWithinTheBound() {
        float[] values = a(42, 3);
        double bound = 1 / Math.sqrt(IN);
        double sum = 0;
        double squares = 0;
        double largest = 0;
        for (float v : values) {
            sum += v;
            squares += (double) v * v;
            largest = Math.max(largest, Math.abs(v));
            assertThat(Math.abs(v)).isLessThanOrEqualTo((float) bound);
        }
        int n = values.length;
        // Six standard errors of the mean and of the mean square of n uniform values: their standard deviations are
        // bound/√3 and bound²·√(1/5 - 1/9). The seed is fixed; with any other each fails with a probability of 2e-9.
        assertThat(sum / n).isCloseTo(0, within(6 * bound / Math.sqrt(3.0 * n)));
        assertThat(squares / n).isCloseTo(bound * bound / 3, within(6 * bound * bound * Math.sqrt(4.0 / 45 / n)));
        // All of n values stay below 0.999 of the bound with probability 0.999^65536 < 1e-28.
        assertThat(largest).isGreaterThan(0.999 * bound);
    }

    /** PEFT's gaussian: a deviation of 1/r. */
    @Test
    void gaussianHasADeviationOfOneOverTheRank() {
        Tensor a = Tensor.zeros(DType.F32, RANK, IN).fill(Double.NaN);
        LoraInit.gaussian(a, 42, 3);
        double sum = 0;
        double squares = 0;
        for (float v : a.toFloats()) {
            sum += v;
            squares += (double) v * v;
        }
        long n = a.size();
        // Six standard errors; the seed is fixed, with any other each fails with a probability of 2e-9.
        assertThat(sum / n).isCloseTo(0, within(6.0 / RANK / Math.sqrt(n)));
        assertThat(squares / n * RANK * RANK).isCloseTo(1, within(6 * Math.sqrt(2.0 / n)));
        Tensor other = Tensor.zeros(DType.F32, RANK, IN);
        LoraInit.gaussian(other, 42, 4);
        assertThat(other.toFloats()).isNotEqualTo(a.toFloats());
    }

    @Test
    void dependsOnSeedAndModuleAlone() {
        assertThat(a(42, 3)).isEqualTo(a(42, 3));
        assertThat(a(42, 3)).isNotEqualTo(a(42, 4)).isNotEqualTo(a(43, 3));
        Tensor fewer = Tensor.zeros(DType.F32, 1, IN);
        LoraInit.kaimingUniform(fewer, 42, 3);
        assertThat(a(42, 3)).startsWith(fewer.toFloats());
    }

    @Test
    void bIsZero() {
        AdapterWeights weights = new AdapterWeights(Tensor.zeros(DType.BF16, 2, 8),
                Tensor.zeros(DType.F32, 5, 2).fill(Double.NaN));
        LoraInit.initialize(weights, 1, 0);
        assertThat(weights.b().toFloats()).containsOnly(0f);
        assertThat(weights.a().toFloats()).doesNotContain(0f);
    }

    @Test
    void refusesWhatItCannotFill() {
        assertThatThrownBy(() -> LoraInit.kaimingUniform(Tensor.shapeOnly(DType.F32, 2, 3), 1, 0))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("host");
        assertThatThrownBy(() -> LoraInit.kaimingUniform(Tensor.zeros(DType.F32, 6), 1, 0))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("[r, in]");
    }
}
