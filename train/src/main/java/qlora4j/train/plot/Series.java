package qlora4j.train.plot;

import java.util.ArrayList;
import java.util.List;

/**
 * One line of a chart.
 *
 * @param colour its colour, 1 to 8, as {@code plot.css} names them
 * @param x ascending
 * @param y as many, finite
 */
public record Series(String name, int colour, Style style, double[] x, double[] y) {
    /** Points beyond these are thinned: of each stretch the least and the largest stay. */
    private static final int MOST = 1200;

    /** How it is drawn. */
    public enum Style {
        /** A full line. */
        LINE,
        /** A thin, pale line: values as they were measured, beside their smoothed ones. */
        RAW,
        /** A line with a dot at each point. */
        DOTS
    }

    public Series {
        if (x.length != y.length) {
            throw new IllegalArgumentException(name + ": " + x.length + " x and " + y.length + " y");
        }
        for (int i = 0; i < x.length; i++) {
            if (!Double.isFinite(x[i]) || !Double.isFinite(y[i])) {
                throw new IllegalArgumentException(name + ": point " + i + " is " + x[i] + ", " + y[i]);
            }
        }
    }

    /**
     * The exponential moving average of the values, corrected for its beginning: {@code m ← w·m + (1-w)·y},
     * {@code s = m / (1 - wᵗ)}, as TensorBoard smooths.
     */
    public static double[] smoothed(double[] y, double weight) {
        double[] out = new double[y.length];
        double mean = 0;
        double rest = 1;
        for (int i = 0; i < y.length; i++) {
            mean = weight * mean + (1 - weight) * y[i];
            rest *= weight;
            out[i] = mean / (1 - rest);
        }
        return out;
    }

    /** The indices that are drawn. */
    List<Integer> drawn() {
        List<Integer> chosen = new ArrayList<>();
        int stretch = Math.ceilDiv(2 * x.length, MOST);
        for (int from = 0; from < x.length; from += Math.max(1, stretch)) {
            int to = Math.min(x.length, from + Math.max(1, stretch));
            int least = from;
            int most = from;
            for (int i = from; i < to; i++) {
                least = y[i] < y[least] ? i : least;
                most = y[i] > y[most] ? i : most;
            }
            if (x.length <= MOST) {
                for (int i = from; i < to; i++) {
                    chosen.add(i);
                }
            } else {
                chosen.add(Math.min(least, most));
                if (least != most) {
                    chosen.add(Math.max(least, most));
                }
            }
        }
        return chosen;
    }
}
