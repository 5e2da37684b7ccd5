package qlora4j.verify;

import java.util.Locale;

/**
 * What one check found.
 *
 * @param ok whether it passed
 * @param measured how far the two are apart
 * @param limit how far they may be
 */
record Outcome(boolean ok, String measured, String limit) {
    private static final String EXACT = "exact";

    /** Passed when the measure is at most the limit; a NaN is not. */
    static Outcome atMost(double measured, double limit) {
        return new Outcome(measured <= limit, number(measured), number(limit));
    }

    /**
     * Passed when nothing differs and there was something to compare.
     *
     * @param first what the first difference is; not looked at when there is none
     */
    static Outcome equal(long differing, long total, String first) {
        boolean ok = differing == 0 && total > 0;
        return new Outcome(ok, ok ? total + " equal"
                : differing + " of " + total + " differ"
                        + (differing == 0 ? "" : ", first " + first),
                EXACT);
    }

    static Outcome fail(String measured) {
        return new Outcome(false, measured, EXACT);
    }

    /** Passed when both passed; the measures side by side. */
    Outcome and(Outcome other) {
        return new Outcome(ok && other.ok, measured + ", " + other.measured, limit + ", " + other.limit);
    }

    /** The same with a word before its measure and limit. */
    Outcome named(String word) {
        return new Outcome(ok, word + " " + measured, word + " " + limit);
    }

    private static String number(double x) {
        return String.format(Locale.ROOT, "%.3g", x);
    }
}
