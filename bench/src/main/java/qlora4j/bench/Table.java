package qlora4j.bench;

import java.util.Locale;

/** Figures as lines of aligned columns, printed one by one as they are measured. */
public final class Table {
    private static final String LINE = "%-52s %10s %17s %17s %8s";

    private Table() {
    }

    /** The line above the figures. */
    public static String header() {
        return String.format(LINE, "work", "time", "rate", "ceiling", "reached").stripTrailing();
    }

    /** One figure. */
    public static String line(Figure f) {
        String ceiling = f.ceiling() > 0 ? number(f.ceiling()) + " " + f.unit() : "";
        String reached = f.ceiling() > 0 ? String.format(Locale.ROOT, "%.0f %%", 100 * f.fraction()) : "";
        return String.format(LINE, f.what(), f.timing() == null ? "" : time(f.timing().median()),
                number(f.value()) + " " + f.unit(), ceiling, reached).stripTrailing();
    }

    /** Three digits that count, and all of those before the point. */
    static String number(double x) {
        if (x >= 100) {
            return String.format(Locale.ROOT, "%,.0f", x);
        }
        return String.format(Locale.ROOT, x >= 10 ? "%.1f" : x >= 1 ? "%.2f" : "%.3f", x);
    }

    /** Seconds in the unit that suits them. */
    static String time(double seconds) {
        if (seconds < 1e-3) {
            return number(seconds * 1e6) + " us";
        }
        return seconds < 1 ? number(seconds * 1e3) + " ms" : number(seconds) + " s";
    }
}
