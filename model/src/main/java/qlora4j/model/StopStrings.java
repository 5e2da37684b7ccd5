package qlora4j.model;

import java.util.Comparator;
import java.util.List;

/**
 * Looks for stop strings in text that arrives in pieces. A stop string may begin in one piece and end in another, so the
 * end of the text that could still become one is held back. The text ends before the stop string that is complete
 * first; of several that end at the same character, before the longest. How the text is cut into pieces
 * changes nothing. For one text; not for several threads at once.
 */
public final class StopStrings {
    private final List<String> stops;
    private final StringBuilder held = new StringBuilder();
    private String matched;

    /**
     * @param stops the strings; none may be empty
     * @throws IllegalArgumentException if one is empty
     */
    public StopStrings(List<String> stops) {
        if (stops.contains("")) {
            throw new IllegalArgumentException(
                    "--stop: a stop string is empty and would end every text at once; leave it out");
        }
        this.stops = stops.stream().distinct().sorted(Comparator.comparingInt(String::length).reversed()).toList();
    }

    /**
     * Takes the next piece.
     *
     * @return the text that may be shown now; what follows a stop string is never returned
     */
    public String accept(String piece) {
        StringBuilder safe = new StringBuilder();
        for (int i = 0; i < piece.length() && matched == null; i++) {
            held.append(piece.charAt(i));
            matched = completed();
            int keep = matched == null ? longestBeginning() : 0;
            int show = matched == null ? held.length() - keep : held.length() - matched.length();
            safe.append(held, 0, show);
            held.delete(0, matched == null ? show : held.length());
        }
        return safe.toString();
    }

    /** The stop string that the held text ends with: the longest, or null. */
    private String completed() {
        for (String stop : stops) {
            if (held.length() >= stop.length() && held.indexOf(stop, held.length() - stop.length()) >= 0) {
                return stop;
            }
        }
        return null;
    }

    /** How long the longest end of the held text is that begins a stop string. */
    private int longestBeginning() {
        int longest = 0;
        for (String stop : stops) {
            for (int n = Math.min(held.length(), stop.length() - 1); n > longest; n--) {
                if (held.indexOf(stop.substring(0, n), held.length() - n) >= 0) {
                    longest = n;
                }
            }
        }
        return longest;
    }

    /** Whether a stop string is complete: the text is at its end. */
    public boolean stopped() {
        return matched != null;
    }

    /** The stop string that ended the text, or null. */
    public String matched() {
        return matched;
    }

    /** The text is at its end without a stop string: the rest that was held back. */
    public String finish() {
        String rest = held.toString();
        held.setLength(0);
        return rest;
    }
}
