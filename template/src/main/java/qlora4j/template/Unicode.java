package qlora4j.template;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.IntPredicate;

/** Text as Python sees it: a sequence of code points (a lone surrogate is one of them). */
final class Unicode {

    private Unicode() {
    }

    /** Python's {@code str.isspace} for one code point. */
    static boolean isSpace(int c) {
        return c >= 9 && c <= 13 || c >= 0x1c && c <= 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680
                || c >= 0x2000 && c <= 0x200a || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f
                || c == 0x3000;
    }

    /** Python's {@code str.isprintable} for one code point. */
    static boolean isPrintable(int c) {
        return switch (Character.getType(c)) {
            case Character.CONTROL, Character.FORMAT, Character.SURROGATE, Character.PRIVATE_USE, Character.UNASSIGNED,
                    Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR ->
                false;
            case Character.SPACE_SEPARATOR -> c == ' ';
            default -> true;
        };
    }

    /** Python's line boundaries. */
    static boolean isLineEnd(int c) {
        return c >= 10 && c <= 13 || c >= 0x1c && c <= 0x1e || c == 0x85 || c == 0x2028 || c == 0x2029;
    }

    static String stripStart(String text, IntPredicate drop) {
        int start = 0;
        while (start < text.length() && drop.test(text.codePointAt(start))) {
            start += Character.charCount(text.codePointAt(start));
        }
        return text.substring(start);
    }

    static String stripEnd(String text, IntPredicate drop) {
        int end = text.length();
        while (end > 0 && drop.test(text.codePointBefore(end))) {
            end -= Character.charCount(text.codePointBefore(end));
        }
        return text.substring(0, end);
    }

    static int length(String text) {
        return text.codePointCount(0, text.length());
    }

    /** The index in {@code char}s of a code point's index. */
    static int offset(String text, long index) {
        return text.offsetByCodePoints(0, (int) index);
    }

    /** The part between two code point indices. */
    static String substring(String text, long start, long stop) {
        int from = offset(text, start);
        return text.substring(from, text.offsetByCodePoints(from, (int) (stop - start)));
    }

    static String at(String text, long index) {
        return Character.toString(text.codePointAt(offset(text, index)));
    }

    /** Order by code points (that of {@link String#compareTo} differs above the basic plane). */
    static int compare(String a, String b) {
        int n = Math.min(a.length(), b.length());
        for (int i = 0; i < n; i++) {
            char x = a.charAt(i);
            char y = b.charAt(i);
            if (x != y) {
                boolean mixed = Character.isSurrogate(x) != Character.isSurrogate(y);
                return mixed ? Character.isSurrogate(x) ? 1 : -1 : Character.compare(x, y);
            }
        }
        return Integer.compare(a.length(), b.length());
    }

    static String upper(String text) {
        return text.toUpperCase(Locale.ROOT);
    }

    static String lower(String text) {
        return text.toLowerCase(Locale.ROOT);
    }

    /** The first code point in title case, the rest in lower case. */
    static String capitalize(String text) {
        if (text.isEmpty()) {
            return text;
        }
        int first = text.codePointAt(0);
        return titleCase(first) + lower(text).substring(lower(Character.toString(first)).length());
    }

    static String titleCase(int c) {
        String single = Character.toString(Character.toTitleCase(c));
        String upper = upper(Character.toString(c));
        if (single.codePointAt(0) == c && upper.codePointCount(0, upper.length()) > 1) {
            int head = 0;
            while (head < upper.length() && !isCased(upper.codePointAt(head))) {
                head += Character.charCount(upper.codePointAt(head));
            }
            head = Math.min(upper.length(), head + 1);
            return upper.substring(0, head) + lower(upper.substring(head));
        }
        return single;
    }

    static boolean isCased(int c) {
        return Character.isUpperCase(c) || Character.isLowerCase(c) || Character.isTitleCase(c);
    }

    /** The lines of a text, with their ends or without. */
    static List<Object> lines(String text, boolean keepEnds) {
        List<Object> lines = new ArrayList<>();
        int start = 0;
        for (int i = 0; i < text.length(); i++) {
            if (isLineEnd(text.charAt(i))) {
                int end = i;
                if (text.charAt(i) == '\r' && i + 1 < text.length() && text.charAt(i + 1) == '\n') {
                    i++;
                }
                lines.add(text.substring(start, keepEnds ? i + 1 : end));
                start = i + 1;
            }
        }
        if (start < text.length()) {
            lines.add(text.substring(start));
        }
        return lines;
    }

    /** Decodes the escapes of a string literal as Python does; an unknown escape stays as it is. */
    static String unescape(String text) {
        StringBuilder out = new StringBuilder(text.length());
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            char e = text.charAt(++i);
            switch (e) {
                case '\n' -> {}
                case '\\', '\'', '"' -> out.append(e);
                case 'a' -> out.append('\u0007');
                case 'b' -> out.append('\b');
                case 'f' -> out.append('\f');
                case 'n' -> out.append('\n');
                case 'r' -> out.append('\r');
                case 't' -> out.append('\t');
                case 'v' -> out.append('\u000b');
                case 'x' -> i = hex(text, i, 2, out);
                case 'u' -> i = hex(text, i, 4, out);
                case 'U' -> i = hex(text, i, 8, out);
                case 'N' -> i = named(text, i, out);
                case '0', '1', '2', '3', '4', '5', '6', '7' -> {
                    int end = i;
                    while (end < text.length() && end < i + 3 && "01234567".indexOf(text.charAt(end)) >= 0) {
                        end++;
                    }
                    out.append((char) Integer.parseInt(text.substring(i, end), 8));
                    i = end - 1;
                }
                default -> out.append('\\').append(e);
            }
        }
        return out.toString();
    }

    private static int hex(String text, int at, int digits, StringBuilder out) {
        int end = at + 1 + digits;
        long value = 0;
        for (int i = at + 1; i < end; i++) {
            int digit = i < text.length() ? "0123456789abcdef".indexOf(Character.toLowerCase(text.charAt(i))) : -1;
            if (digit < 0) {
                throw Fault.value("truncated \\" + text.charAt(at) + " escape");
            }
            value = value * 16 + digit;
        }
        if (value > Character.MAX_CODE_POINT) {
            throw Fault.value("illegal Unicode character");
        }
        out.appendCodePoint((int) value);
        return end - 1;
    }

    private static int named(String text, int at, StringBuilder out) {
        int end = text.indexOf('}', at);
        if (at + 1 >= text.length() || text.charAt(at + 1) != '{' || end < 0) {
            throw Fault.value("malformed \\N character escape");
        }
        try {
            out.appendCodePoint(Character.codePointOf(text.substring(at + 2, end)));
        } catch (IllegalArgumentException unknown) {
            throw Fault.value("unknown Unicode character name");
        }
        return end;
    }
}
