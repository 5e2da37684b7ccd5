package qlora4j.optim;

import java.util.Arrays;
import java.util.Locale;
import java.util.stream.Collectors;

/**
 * Learning-rate schedules, named and computed as transformers' {@code get_*_schedule} functions do
 * ({@code --lr-scheduler-type}).
 */
public enum Schedule {
    /** Always 1; warm-up is not looked at. */
    CONSTANT,
    /** {@code k / warmup}, then 1. */
    CONSTANT_WITH_WARMUP,
    /** {@code k / warmup}, then a straight line to 0 at {@code total}. */
    LINEAR,
    /** {@code k / warmup}, then half a period of a cosine to 0 at {@code total}. */
    COSINE;

    /** The name as a flag's value, such as {@code constant_with_warmup}. */
    public String flag() {
        return name().toLowerCase(Locale.ROOT);
    }

    /** The schedule with this name; an error that lists them when there is none. */
    public static Schedule named(String name) {
        return Arrays.stream(values()).filter(s -> s.flag().equals(name)).findFirst()
                .orElseThrow(() -> new IllegalArgumentException("--lr-scheduler-type " + name + ": expected one of "
                        + Arrays.stream(values()).map(Schedule::flag).collect(Collectors.joining(", "))));
    }

    /**
     * The number of warm-up steps: {@code steps} where that is not 0, else {@code ratio} of {@code total}, rounded up.
     *
     * @param steps {@code --warmup-steps}
     * @param ratio {@code --warmup-ratio}, 0 to 1
     * @param total optimizer steps of the run
     */
    public static long warmupSteps(long steps, double ratio, long total) {
        if (steps < 0) {
            throw new IllegalArgumentException("--warmup-steps " + steps + ": must be 0 or more");
        }
        if (!(ratio >= 0 && ratio <= 1)) {
            throw new IllegalArgumentException("--warmup-ratio " + ratio + ": must be 0 to 1");
        }
        return steps > 0 ? steps : (long) Math.ceil(total * ratio);
    }

    /**
     * What the base learning rate is multiplied by.
     *
     * @param k steps taken before this one: 0 at the first step, whose factor is 0 where there is a warm-up
     * @param warmup warm-up steps
     * @param total steps of the run
     */
    public double factor(long k, long warmup, long total) {
        if (this == CONSTANT) {
            return 1;
        }
        if (k < warmup) {
            return (double) k / Math.max(1, warmup);
        }
        double span = Math.max(1, total - warmup);
        return switch (this) {
            case CONSTANT, CONSTANT_WITH_WARMUP -> 1;
            case LINEAR -> Math.max(0, (total - k) / span);
            case COSINE -> Math.max(0, 0.5 * (1 + StrictMath.cos(Math.PI * ((k - warmup) / span))));
        };
    }
}
