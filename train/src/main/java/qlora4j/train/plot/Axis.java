package qlora4j.train.plot;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * One axis: a range of values and where its marks stand.
 *
 * @param label what it shows, with the unit
 * @param low the value at its beginning; below {@code high}
 * @param ticks its marks, within the range
 */
public record Axis(String label, double low, double high, List<Tick> ticks) {
    private static final double[] STEPS = {1, 2, 5, 10};
    /** The largest values of axes whose marks are not written in powers of ten. */
    private static final double LEAST_PLAIN = 1e-2;
    private static final double MOST_PLAIN = 1e6;

    /** A mark and what stands at it. */
    public record Tick(double at, String text) {
    }

    public Axis {
        if (!(low < high) || !Double.isFinite(low) || !Double.isFinite(high)) {
            throw new IllegalArgumentException("axis \"" + label + "\": from " + low + " to " + high);
        }
        ticks = List.copyOf(ticks);
    }

    /**
     * An axis over {@code low} to {@code high} with about {@code marks} marks at round numbers.
     *
     * @param widen whether its ends move out to the next marks
     */
    public static Axis linear(String label, double low, double high, int marks, boolean widen) {
        if (!Double.isFinite(low) || !Double.isFinite(high)) {
            throw new IllegalArgumentException("axis \"" + label + "\": from " + low + " to " + high);
        }
        double from = low;
        double to = high;
        if (!(to > from)) {
            double half = from == 0 ? 1 : Math.abs(from) / 2;
            from -= half;
            to += half;
        }
        double step = step((to - from) / marks);
        long first = (long) (widen ? Math.floor(from / step) : Math.ceil(from / step - 1e-9));
        long last = (long) (widen ? Math.ceil(to / step) : Math.floor(to / step + 1e-9));
        double largest = Math.max(Math.abs(from), Math.abs(to));
        List<Tick> ticks = new ArrayList<>();
        for (long i = first; i <= last; i++) {
            ticks.add(new Tick(i * step, text(i * step, step, largest)));
        }
        return new Axis(label, widen ? first * step : from, widen ? last * step : to, ticks);
    }

    /** The round number nearest above: 1, 2 or 5 times a power of ten. */
    private static double step(double least) {
        double power = Math.pow(10, Math.floor(Math.log10(least)));
        for (double s : STEPS) {
            if (s * power >= least * (1 - 1e-9)) {
                return s * power;
            }
        }
        throw new AssertionError(least);
    }

    /** A mark's number with as many digits as tell it from its neighbours; tiny and huge axes in powers of ten. */
    private static String text(double value, double step, double largest) {
        if (value == 0) {
            return "0";
        }
        if (largest < LEAST_PLAIN || largest >= MOST_PLAIN) {
            String s = String.format(Locale.ROOT, "%.2e", value);
            return s.replaceFirst("\\.?0*e", "e").replaceFirst("e([+-])0", "e$1").replace("e+", "e");
        }
        int digits = Math.max(0, (int) Math.ceil(-Math.log10(step) - 1e-9));
        return String.format(Locale.ROOT, "%." + digits + "f", value);
    }

    /** Where a value stands between the beginning (0) and the end (1). */
    double share(double value) {
        return (value - low) / (high - low);
    }
}
