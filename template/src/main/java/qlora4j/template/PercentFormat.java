package qlora4j.template;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** Python's {@code text % values}. */
final class PercentFormat {

    private static final Pattern SPEC =
            Pattern.compile("%(\\(([^)]*)\\))?([-+ #0]*)(\\*|\\d+)?(?:\\.(\\*|\\d*))?[hlL]?(.)?",
                    Pattern.DOTALL);

    private final Interpreter in;
    private final Object values;
    private final boolean escape;
    private int used;

    private PercentFormat(Interpreter in, Object values, boolean escape) {
        this.in = in;
        this.values = values;
        this.escape = escape;
    }

    /** Formats; texts among the values are escaped as HTML where {@code escape} is set. */
    static String format(Interpreter in, String format, Object values, boolean escape) {
        return new PercentFormat(in, values, escape).format(format);
    }

    private String format(String format) {
        StringBuilder out = new StringBuilder();
        Matcher spec = SPEC.matcher(format);
        int at = 0;
        while (spec.find(at)) {
            out.append(format, at, spec.start());
            out.append(one(spec));
            in.session.checkLength(out.length());
            at = spec.end();
        }
        out.append(format, at, format.length());
        boolean mapping = values instanceof Dict;
        int given = values instanceof Seq seq && seq.tuple() ? seq.items().size() : 1;
        boolean plain = !(values instanceof Seq seq && seq.tuple()) && (mapping || values instanceof Seq);
        if (used < given && !mapping && !(plain && used == 0)) {
            throw Fault.type("not all arguments converted during string formatting");
        }
        return out.toString();
    }

    private Object next() {
        if (values instanceof Seq seq && seq.tuple()) {
            if (used >= seq.items().size()) {
                throw Fault.type("not enough arguments for format string");
            }
            return seq.items().get(used++);
        }
        if (used++ > 0) {
            throw Fault.type("not enough arguments for format string");
        }
        return values;
    }

    private String one(Matcher spec) {
        if (spec.group(6) == null) {
            throw Fault.value("incomplete format");
        }
        char type = spec.group(6).charAt(0);
        String flags = spec.group(3);
        boolean left = flags.indexOf('-') >= 0;
        long width = 0;
        if ("*".equals(spec.group(4))) {
            width = Py.integer(next());
            left |= width < 0;
            width = Math.abs(width);
        } else if (spec.group(4) != null) {
            width = number(spec.group(4));
        }
        int precision = -1;
        if ("*".equals(spec.group(5))) {
            precision = Math.max(0, Py.integer(next()));
        } else if (spec.group(5) != null) {
            precision = spec.group(5).isEmpty() ? 0 : number(spec.group(5));
        }
        in.session.room(width);
        if (type == '%') {
            return "%";
        }
        Object value;
        if (spec.group(1) != null) {
            if (!(values instanceof Dict dict)) {
                throw Fault.type("format requires a mapping");
            }
            value = dict.get(spec.group(2));
            if (value == Values.MISSING) {
                throw Fault.lookup(Repr.quote(spec.group(2)));
            }
        } else {
            value = next();
        }
        return padded(convert(value, type, flags, precision), (int) width, left,
                flags.indexOf('0') >= 0 && isNumeric(type));
    }

    private static int number(String digits) {
        if (digits.length() > 9) {
            throw Fault.value("width too big");
        }
        return Integer.parseInt(digits);
    }

    private static boolean isNumeric(char type) {
        return "diuxXoeEfFgG".indexOf(type) >= 0;
    }

    private String convert(Object value, char type, String flags, int precision) {
        String text = switch (type) {
            case 's' -> string(in.str(value), value);
            case 'r', 'a' -> string(Repr.repr(in.session, value), null);
            case 'c' -> character(value);
            case 'd', 'i', 'u', 'x', 'X', 'o' -> integer(value, type, flags, precision);
            case 'e', 'E', 'f', 'F', 'g', 'G' -> real(value, type, flags, precision);
            default ->
                throw Fault.value("unsupported format character '" + type + "' (0x" + Integer.toHexString(type) + ")");
        };
        boolean cut = precision >= 0 && "sra".indexOf(type) >= 0 && Unicode.length(text) > precision;
        return cut ? Unicode.substring(text, 0, precision) : text;
    }

    private String string(String text, Object value) {
        return escape && !(value instanceof Values.Markup) ? Html.escape(text) : text;
    }

    private static String character(Object value) {
        if (Py.isString(value) && Unicode.length(Py.text(value)) == 1) {
            return Py.text(value);
        }
        if (!Num.isInteger(value)) {
            throw Fault.type("%c requires int or char");
        }
        int c = Py.integer(value);
        if (!Character.isValidCodePoint(c)) {
            throw Fault.overflow("%c arg not in range(0x110000)");
        }
        return Character.toString(c);
    }

    private static String sign(boolean negative, String flags) {
        return negative ? "-" : flags.indexOf('+') >= 0 ? "+" : flags.indexOf(' ') >= 0 ? " " : "";
    }

    private static Object number(Object value, char type) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Num.isNumber(value)) {
            throw Fault.type("diu".indexOf(type) >= 0
                    ? "%" + type + " format: a real number is required, not " + Py.typeName(value)
                    : "xXo".indexOf(type) >= 0
                            ? "%" + type + " format: an integer is required, not " + Py.typeName(value)
                            : "must be real number, not " + Py.typeName(value));
        }
        return value;
    }

    private static String integer(Object value, char type, String flags, int precision) {
        Object number = number(value, type);
        if (number instanceof Double real) {
            if ("xXo".indexOf(type) >= 0) {
                throw Fault.type("%" + type + " format: an integer is required, not float");
            }
            number = Num.truncate(real);
        }
        int radix = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : 10;
        String digits = NumberFormat.digits(Num.big(number), radix);
        if (precision > NumberFormat.MAX_PRECISION) {
            throw Fault.limit("a precision of more than " + NumberFormat.MAX_PRECISION + " digits");
        }
        digits = "0".repeat(Math.max(0, precision - digits.length())) + digits;
        String prefix = flags.indexOf('#') < 0 || radix == 10 ? "" : radix == 16 ? "0x" : "0o";
        String text = sign(Num.big(number).signum() < 0, flags) + prefix + digits;
        return type == 'X' ? Unicode.upper(text) : text;
    }

    private static String real(Object value, char type, String flags, int precision) {
        double number = Num.real(number(value, type));
        boolean negative = number < 0 || number == 0 && 1 / number < 0;
        return sign(negative, flags)
                + NumberFormat.magnitude(number, type, precision < 0 ? 6 : precision, flags.indexOf('#') >= 0);
    }

    private static String padded(String text, int width, boolean left, boolean zeros) {
        int missing = width - Unicode.length(text);
        if (missing <= 0) {
            return text;
        }
        if (left) {
            return text + " ".repeat(missing);
        }
        if (!zeros) {
            return " ".repeat(missing) + text;
        }
        int head = text.startsWith("-") || text.startsWith("+") || text.startsWith(" ") ? 1 : 0;
        head += text.regionMatches(true, head, "0x", 0, 2) || text.startsWith("0o", head) ? 2 : 0;
        return text.substring(0, head) + "0".repeat(missing) + text.substring(head);
    }
}
