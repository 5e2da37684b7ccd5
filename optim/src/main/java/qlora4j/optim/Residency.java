package qlora4j.optim;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * How much of the optimizer's state may stay in the device's memory ({@code --optim-resident}): a share of it, or a
 * number of bytes.
 */
public sealed interface Residency {
    /** Everything stays; nothing is paged. */
    Residency ALL = new Percent(100);

    /** A share of the state, 0 to 100. */
    record Percent(double percent) implements Residency {
        public Percent {
            if (!(percent >= 0 && percent <= 100)) {
                throw new IllegalArgumentException("--optim-resident " + percent + "%: must be 0% to 100%");
            }
        }
    }

    /** A number of bytes, 0 or more. */
    record Bytes(long bytes) implements Residency {
        public Bytes {
            if (bytes < 0) {
                throw new IllegalArgumentException("--optim-resident " + bytes + ": must be 0 or more bytes");
            }
        }
    }

    /** The budget in bytes for a state of {@code total} bytes. */
    default long budget(long total) {
        return switch (this) {
            case Percent p -> p.percent == 100 ? total : Math.min(total, (long) (total * (p.percent / 100)));
            case Bytes b -> Math.min(total, b.bytes);
        };
    }

    /** Parses {@code 50%}, {@code 4096}, {@code 512KiB}, {@code 64MiB} or {@code 2GiB}. */
    static Residency parse(String text) {
        Matcher m = Pattern.compile("(\\d{1,18}(?:\\.\\d{1,9})?)(%|[kmg]i?b?)?")
                .matcher(text.strip().toLowerCase(Locale.ROOT));
        if (!m.matches()) {
            throw new IllegalArgumentException("--optim-resident " + text
                    + ": expected a share such as 50%, or bytes such as 1048576, 64MiB or 2GiB");
        }
        String unit = m.group(2) == null ? "" : m.group(2);
        double value = Double.parseDouble(m.group(1));
        if (unit.equals("%")) {
            return new Percent(value);
        }
        long factor = switch (unit.isEmpty() ? ' ' : unit.charAt(0)) {
            case 'k' -> 1L << 10;
            case 'm' -> 1L << 20;
            case 'g' -> 1L << 30;
            default -> 1;
        };
        return new Bytes((long) (value * factor));
    }
}
