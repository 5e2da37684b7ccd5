package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.Supplier;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/**
 * Gradients against central differences in float64. With a step of 1e-5 the difference is off by the third derivative
 * times 1e-10 / 6 and by rounding of about 1e-16 / 1e-5: for functions of magnitude one, 1e-8 holds with room.
 */
final class Differences {
    private static final double STEP = 1e-5;
    private static final double TOLERANCE = 1e-8;

    private Differences() {
    }

    static Tensor random(int seed, long... shape) {
        Tensor t = Tensor.zeros(DType.F64, shape);
        Philox.Sequence rng = new Philox.Sequence(seed, 0, 0);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, rng.nextGaussian());
        }
        return t;
    }

    static Tensor copy(Tensor t) {
        return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
    }

    static Tensor poison(long... shape) {
        return Tensor.zeros(DType.F64, shape).fill(Double.NaN);
    }

    /** {@code Σ a·b}: the loss whose gradient with respect to a is b. */
    static double dot(Tensor a, Tensor b) {
        double sum = 0;
        for (long i = 0; i < a.size(); i++) {
            sum += a.get(i) * b.get(i);
        }
        return sum;
    }

    /** Cosines and sines of the angles {@code position·100^(-2 j / d)}, as rope reads them. */
    static Tensor ropeTable(int positions, int d) {
        Tensor table = Tensor.zeros(DType.F64, positions, d);
        for (int p = 0; p < positions; p++) {
            for (int j = 0; j < d / 2; j++) {
                table.set(p * d + j, StrictMath.cos(p * StrictMath.pow(100, -2.0 * j / d)));
                table.set(p * d + d / 2 + j, StrictMath.sin(p * StrictMath.pow(100, -2.0 * j / d)));
            }
        }
        return table;
    }

    /** {@code actual} against the differences of {@code loss} in every element of {@code x}. */
    static void check(String name, Tensor x, Supplier<Double> loss, Tensor actual) {
        for (long i = 0; i < x.size(); i++) {
            double value = x.get(i);
            x.set(i, value + STEP);
            double above = loss.get();
            x.set(i, value - STEP);
            double below = loss.get();
            x.set(i, value);
            double expected = (above - below) / (2 * STEP);
            assertThat(expected).as("the difference in %s %d", name, i).isFinite();
            assertThat(Math.abs(actual.get(i) - expected)).as("%s %d: %s and %s", name, i, actual.get(i), expected)
                    .isLessThanOrEqualTo(TOLERANCE * Math.max(1, Math.abs(expected)));
        }
    }
}
