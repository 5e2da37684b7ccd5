package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** NEFTune's noise: its size, and that it is the same bits on every backend and for every split of a batch. */
@Tag("lanes")
class EmbeddingNoiseTest {
    private static final double ALPHA = 5;

    private static Tensor noisy(String backend, Tensor h, int[] samples, int[] positions, int[] cu, int step) {
        try (Backend b = Backends.open(backend, null, backend.equals(Backend.SCALAR) ? 1 : 3);
                Stream s = b.openStream()) {
            Tensor copy = Tensor.zeros(h.dtype(), h.shape()).copyFrom(h);
            EmbeddingNoise noise = new EmbeddingNoise(ALPHA, 77, Tensor.of(new int[]{step}, 1));
            DecoderOps.embeddingNoise(s, noise, Tensor.of(samples, samples.length),
                    Tensor.of(positions, positions.length), Tensor.of(cu, cu.length), copy);
            s.synchronize();
            return copy;
        }
    }

    private static Tensor values(DType type, int n, int c) {
        Tensor t = Tensor.zeros(type, n, c);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, Math.sin(i * 1.7) / 3);
        }
        return t;
    }

    @ParameterizedTest
    @CsvSource({"F32,1", "F32,7", "F32,64", "F32,130", "BF16,33", "BF16,576"})
    void theSameBitsOnEveryBackend(DType type, int c) {
        Tensor h = values(type, 20, c);
        int[] samples = new int[20];
        int[] positions = new int[20];
        int[] cu = {0, 1, 14, 20};
        for (int i = 0; i < 20; i++) {
            int q = i < 1 ? 0 : i < 14 ? 1 : 2;
            samples[i] = 5 + q;
            positions[i] = i - cu[q];
        }
        Tensor scalar = noisy(Backend.SCALAR, h, samples, positions, cu, 3);
        Tensor vector = noisy(Backend.CPU, h, samples, positions, cu, 3);
        assertThat(vector.data().mismatch(scalar.data())).isEqualTo(-1);
        assertThat(scalar.data().mismatch(noisy(Backend.SCALAR, h, samples, positions, cu, 4).data()))
                .as("another step, other noise").isNotEqualTo(-1);
        // The second sequence alone, as another split of the batch would have it.
        int[] alone = java.util.Arrays.copyOfRange(samples, 1, 14);
        int[] from0 = java.util.Arrays.copyOfRange(positions, 1, 14);
        Tensor part = noisy(Backend.CPU, h.rows(1, 14), alone, from0, new int[]{0, 13}, 3);
        assertThat(part.data().mismatch(scalar.rows(1, 14).data())).isEqualTo(-1);
    }

    /**
     * Uniform in ±alpha/√(L·C): mean 0 and variance m²/3 within five standard errors of 40,000 draws (the seed is fixed;
     * with any other each fails with a probability of 6e-7), the largest above 0.999 of m (else 0.999^40000 = 4e-18).
     */
    @Test
    void theNoiseIsUniformOfTheWrittenSize() {
        int n = 100;
        int c = 400;
        int[] positions = new int[n];
        java.util.Arrays.setAll(positions, i -> i);
        Tensor d = noisy(Backend.SCALAR, Tensor.zeros(DType.F64, n, c), new int[n], positions, new int[]{0, n}, 0);
        double m = ALPHA / Math.sqrt(n * c);
        double sum = 0;
        double squares = 0;
        double most = 0;
        for (long i = 0; i < d.size(); i++) {
            sum += d.get(i);
            squares += d.get(i) * d.get(i);
            most = Math.max(most, Math.abs(d.get(i)));
        }
        assertThat(most).isBetween(0.999 * m, m * (1 + 1e-6));
        assertThat(Math.abs(sum / d.size())).isLessThan(5 * m / Math.sqrt(3.0 * d.size()));
        double variance = m * m / 3;
        assertThat(Math.abs(squares / d.size() - variance)).isLessThan(5 * m * m * Math.sqrt(4.0 / 45 / d.size()));
    }

    @Test
    void sizesThatDoNotFitAreRefused() {
        Tensor h = values(DType.F32, 3, 4);
        assertThatThrownBy(() -> noisy(Backend.SCALAR, h, new int[2], new int[3], new int[]{0, 3}, 0))
                .hasMessageContaining("samples");
        assertThatThrownBy(() -> new EmbeddingNoise(-1, 0, null)).hasMessageContaining("--neftune-noise-alpha -1");
    }
}
