package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.Supplier;
import qlora4j.tensor.Tensor;

/**
 * Gradients against central differences in float64. The layer is linear in each of its inputs (in DoRA's with the norms
 * as constants), so that a central difference is exact but for rounding, about 1e-16 / 1e-4 times a magnitude of at most
 * a thousand.
 */
final class Differences {
    private static final double STEP = 1e-4;
    private static final double TOLERANCE = 1e-9;

    private Differences() {
    }

    /** {@code actual} against the differences of {@code loss} in every element of {@code t}. */
    static void check(String name, Tensor t, Supplier<Double> loss, Tensor actual) {
        for (long i = 0; i < t.size(); i++) {
            double value = t.get(i);
            t.set(i, value + STEP);
            double above = loss.get();
            t.set(i, value - STEP);
            double below = loss.get();
            t.set(i, value);
            double expected = (above - below) / (2 * STEP);
            assertThat(Math.abs(actual.get(i) - expected)).as("d%s %d: %s and %s", name, i, actual.get(i), expected)
                    .isLessThanOrEqualTo(TOLERANCE * Math.max(1, Math.abs(expected)));
        }
    }
}
