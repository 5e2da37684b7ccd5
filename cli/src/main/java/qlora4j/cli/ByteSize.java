package qlora4j.cli;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A number of bytes on the command line: {@code 8GB} is 8e9, {@code 8GiB} and {@code 8G} are 8 times 2^30. */
final class ByteSize {
    private static final Pattern FORM = Pattern.compile("(\\d{1,15}(?:\\.\\d{1,9})?)\\s*(?:([kmgt])(i?)(b?))?");
    private static final String UNITS = "kmgt";

    private ByteSize() {
    }

    /** Parses the value of {@code flag}. */
    static long parse(String flag, String text) {
        Matcher m = FORM.matcher(text.strip().toLowerCase(Locale.ROOT));
        if (!m.matches()) {
            throw new IllegalArgumentException(flag + " " + text
                    + ": expected a number of bytes such as 8GB, 512MiB or 1000000");
        }
        double factor = 1;
        if (m.group(2) != null) {
            boolean decimal = m.group(3).isEmpty() && !m.group(4).isEmpty();
            factor = Math.pow(decimal ? 1000 : 1024, UNITS.indexOf(m.group(2)) + 1);
        }
        return (long) (Double.parseDouble(m.group(1)) * factor);
    }
}
