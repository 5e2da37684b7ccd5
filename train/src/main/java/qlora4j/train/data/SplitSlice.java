package qlora4j.train.data;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A part of a split, as the library datasets writes it: {@code train}, {@code train[:100]}, {@code train[-10%:]}. Parts
 * are joined by {@code +}.
 *
 * @param name of the split
 * @param from where it begins, or null
 * @param to   where it ends, or null; both count rows, from the end where negative, or are a percentage
 */
record SplitSlice(String name, String from, String to) {
    private static final Pattern SLICE =
            Pattern.compile("\\s*([^\\[\\]+\\s]+)\\s*(?:\\[\\s*(-?\\d{1,9}%?)?\\s*:\\s*(-?\\d{1,9}%?)?\\s*])?\\s*");
    private static final double PERCENT = 100;

    /** The parts that a flag names. */
    static List<SplitSlice> parse(String flag, String text) {
        List<SplitSlice> parts = new ArrayList<>();
        for (String part : text.split("\\+", -1)) {
            Matcher m = SLICE.matcher(part);
            if (!m.matches()) {
                throw new DataException(flag + " " + text + ": expected a split's name such as train, with"
                        + " [FROM:TO] behind it for a part, in rows or in percent");
            }
            parts.add(new SplitSlice(m.group(1), m.group(2), m.group(3)));
        }
        return parts;
    }

    /** The part of a split's rows. */
    <T> List<T> of(List<T> rows) {
        int n = rows.size();
        int begin = from == null ? 0 : index(from, n);
        int end = to == null ? n : index(to, n);
        return rows.subList(Math.min(begin, end), end);
    }

    private static int index(String text, int n) {
        boolean percent = text.endsWith("%");
        long value = Long.parseLong(percent ? text.substring(0, text.length() - 1) : text);
        long index = percent ? Math.round(value / PERCENT * n) : value;
        return Math.clamp(index < 0 ? index + n : index, 0, n);
    }
}
