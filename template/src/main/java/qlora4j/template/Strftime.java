package qlora4j.template;

import java.time.ZonedDateTime;
import java.time.format.TextStyle;
import java.time.temporal.ChronoField;
import java.time.temporal.IsoFields;
import java.util.Locale;

/** C's {@code strftime} in the C locale, for a local time without a zone (as {@code datetime.now()} is). */
final class Strftime {

    private static final int DAYS_OF_WEEK = 7;

    private Strftime() {
    }

    static String format(String format, ZonedDateTime time) {
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < format.length(); i++) {
            char c = format.charAt(i);
            if (c != '%' || i + 1 == format.length()) {
                out.append(c);
                continue;
            }
            char directive = format.charAt(++i);
            boolean unpadded = directive == '-' && i + 1 < format.length();
            if (unpadded) {
                directive = format.charAt(++i);
            }
            String field = field(directive, time);
            out.append(unpadded && field.matches("[0 ]\\d+") ? field.replaceAll("^[0 ]+(?=\\d)", "") : field);
        }
        return out.toString();
    }

    private static String field(char directive, ZonedDateTime t) {
        int hour12 = t.getHour() % 12 == 0 ? 12 : t.getHour() % 12;
        int weekday = t.getDayOfWeek().getValue();
        return switch (directive) {
            case 'a' -> t.getDayOfWeek().getDisplayName(TextStyle.SHORT, Locale.ENGLISH);
            case 'A' -> t.getDayOfWeek().getDisplayName(TextStyle.FULL, Locale.ENGLISH);
            case 'b', 'h' -> t.getMonth().getDisplayName(TextStyle.SHORT, Locale.ENGLISH);
            case 'B' -> t.getMonth().getDisplayName(TextStyle.FULL, Locale.ENGLISH);
            case 'c' -> format("%a %b %e %H:%M:%S %Y", t);
            case 'C' -> two(t.getYear() / 100);
            case 'd' -> two(t.getDayOfMonth());
            case 'D', 'x' -> format("%m/%d/%y", t);
            case 'e' -> String.format(Locale.ROOT, "%2d", t.getDayOfMonth());
            case 'f' -> String.format(Locale.ROOT, "%06d", t.getNano() / 1000);
            case 'F' -> format("%Y-%m-%d", t);
            case 'g' -> two(t.get(IsoFields.WEEK_BASED_YEAR) % 100);
            case 'G' -> String.valueOf(t.get(IsoFields.WEEK_BASED_YEAR));
            case 'H' -> two(t.getHour());
            case 'I' -> two(hour12);
            case 'j' -> String.format(Locale.ROOT, "%03d", t.getDayOfYear());
            case 'k' -> String.format(Locale.ROOT, "%2d", t.getHour());
            case 'l' -> String.format(Locale.ROOT, "%2d", hour12);
            case 'm' -> two(t.getMonthValue());
            case 'M' -> two(t.getMinute());
            case 'n' -> "\n";
            case 'p' -> t.get(ChronoField.AMPM_OF_DAY) == 0 ? "AM" : "PM";
            case 'P' -> t.get(ChronoField.AMPM_OF_DAY) == 0 ? "am" : "pm";
            case 'r' -> format("%I:%M:%S %p", t);
            case 'R' -> format("%H:%M", t);
            case 's' -> String.valueOf(t.toEpochSecond());
            case 'S' -> two(t.getSecond());
            case 't' -> "\t";
            case 'T', 'X' -> format("%H:%M:%S", t);
            case 'u' -> String.valueOf(weekday);
            case 'U' -> two((t.getDayOfYear() + DAYS_OF_WEEK - 1 - weekday % DAYS_OF_WEEK) / DAYS_OF_WEEK);
            case 'V' -> two(t.get(IsoFields.WEEK_OF_WEEK_BASED_YEAR));
            case 'w' -> String.valueOf(weekday % DAYS_OF_WEEK);
            case 'W' ->
                two((t.getDayOfYear() + DAYS_OF_WEEK - 1 - (weekday + DAYS_OF_WEEK - 1) % DAYS_OF_WEEK) / DAYS_OF_WEEK);
            case 'y' -> two(t.getYear() % 100);
            case 'Y' -> String.valueOf(t.getYear());
            case 'z', 'Z' -> "";
            case '%' -> "%";
            default -> "%" + directive;
        };
    }

    private static String two(int number) {
        return String.format(Locale.ROOT, "%02d", number);
    }
}
