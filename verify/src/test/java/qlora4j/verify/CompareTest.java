package qlora4j.verify;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import qlora4j.tensor.Tensor;

/** No comparison passes a NaN, another size, or nothing at all. */
class CompareTest {
    private static final Tensor ONE = Tensor.of(new float[]{1, 2}, 2);
    private static final Tensor NAN = Tensor.of(new float[]{1, Float.NaN}, 2);
    private static final Tensor SHORT = Tensor.of(new float[]{1}, 1);
    private static final Tensor EMPTY = Tensor.of(new float[0], 0);

    @Test
    void aNanFails() {
        assertThat(Outcome.atMost(Compare.largest(NAN, ONE), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.largest(ONE, NAN), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.mean(NAN, ONE), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.relativeNorm(NAN, ONE), 1e9).ok()).isFalse();
        assertThat(Compare.bits(NAN, ONE).ok()).isFalse();
    }

    @Test
    void anotherSizeOrNothingFails() {
        assertThat(Outcome.atMost(Compare.largest(SHORT, ONE), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.mean(SHORT, ONE), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.relativeNorm(SHORT, ONE), 1e9).ok()).isFalse();
        assertThat(Outcome.atMost(Compare.largest(EMPTY, EMPTY), 1e9).ok()).isFalse();
        assertThat(Compare.bits(SHORT, ONE).ok()).isFalse();
        assertThat(Compare.bits(EMPTY, EMPTY).ok()).isFalse();
        assertThat(new TextTally().outcome().ok()).isFalse();
    }

    @Test
    void theSignOfAZeroIsABit() {
        assertThat(Compare.bits(Tensor.of(new float[]{0}, 1), Tensor.of(new float[]{-0f}, 1)).ok()).isFalse();
        assertThat(Compare.bits(ONE, Tensor.of(new float[]{1, 2}, 2)).ok()).isTrue();
    }
}
