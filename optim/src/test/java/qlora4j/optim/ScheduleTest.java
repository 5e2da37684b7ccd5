package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

class ScheduleTest {
    private static void assertFactors(Schedule s, long warmup, long total, double... expected) {
        for (int k = 0; k < expected.length; k++) {
            // The expected values are written with twelve decimals.
            assertThat(s.factor(k, warmup, total)).as("%s at %d", s, k).isCloseTo(expected[k], within(1e-12));
        }
    }

    /** Expected: transformers' lambdas at two warm-up steps of ten; the cosines are (1 + cos(pi k / 8)) / 2. */
    @Test
    void factorsAreThoseOfTransformers() {
        assertFactors(Schedule.CONSTANT, 4, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
        assertFactors(Schedule.CONSTANT_WITH_WARMUP, 4, 10, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1);
        assertFactors(Schedule.LINEAR, 2, 10, 0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0, 0);
        assertFactors(Schedule.COSINE, 2, 10, 0, 0.5, 1, 0.961939766256, 0.853553390593, 0.691341716183, 0.5,
                0.308658283817, 0.146446609407, 0.038060233744, 0);
    }

    @Test
    void withoutWarmupTheFirstStepIsFull() {
        for (Schedule s : Schedule.values()) {
            assertThat(s.factor(0, 0, 7)).isEqualTo(1);
            assertThat(s.factor(0, 1, 7)).isEqualTo(s == Schedule.CONSTANT ? 1 : 0);
            assertThat(s.factor(0, 0, 0)).isBetween(0.0, 1.0);
        }
    }

    @Test
    void warmupIsStepsOrARoundedUpShare() {
        assertThat(Schedule.warmupSteps(0, 0.03, 100)).isEqualTo(3);
        assertThat(Schedule.warmupSteps(0, 0.03, 90)).isEqualTo(3);
        assertThat(Schedule.warmupSteps(0, 0, 90)).isZero();
        assertThat(Schedule.warmupSteps(7, 0.5, 90)).isEqualTo(7);
        assertThatThrownBy(() -> Schedule.warmupSteps(0, 1.5, 90)).hasMessageContaining("--warmup-ratio 1.5");
        assertThatThrownBy(() -> Schedule.warmupSteps(-1, 0, 90)).hasMessageContaining("--warmup-steps -1");
    }

    @Test
    void namesAreThoseOfTheFlag() {
        for (Schedule s : Schedule.values()) {
            assertThat(Schedule.named(s.flag())).isEqualTo(s);
        }
        assertThatThrownBy(() -> Schedule.named("cosin")).hasMessageContaining("--lr-scheduler-type cosin")
                .hasMessageContaining("constant_with_warmup");
    }
}
