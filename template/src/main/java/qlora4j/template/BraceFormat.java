package qlora4j.template;

import java.math.BigInteger;
import qlora4j.template.Values.Undefined;

/** Python's {@code str.format}, its fields resolved as the sandbox does. */
final class BraceFormat {

    private static final int MAX_NESTING = 2;

    private final Interpreter in;
    private final Args args;
    private int automatic;
    private boolean numbered;

    private BraceFormat(Interpreter in, Args args) {
        this.in = in;
        this.args = args;
    }

    static String format(Interpreter in, String format, Args args) {
        return new BraceFormat(in, args).format(format, MAX_NESTING);
    }

    private String format(String format, int nesting) {
        if (nesting == 0) {
            throw Fault.value("Max string recursion exceeded");
        }
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < format.length(); i++) {
            char c = format.charAt(i);
            boolean doubled = i + 1 < format.length() && format.charAt(i + 1) == c;
            if (c == '}' || c == '{' && doubled) {
                if (!doubled) {
                    throw Fault.value("Single '}' encountered in format string");
                }
                out.append(c);
                i++;
            } else if (c == '{') {
                int end = fieldEnd(format, i + 1);
                out.append(field(format.substring(i + 1, end), nesting));
                i = end;
            } else {
                out.append(c);
            }
            in.session.checkLength(out.length());
        }
        return out.toString();
    }

    private static int fieldEnd(String format, int from) {
        int open = 1;
        for (int i = from; i < format.length(); i++) {
            open += format.charAt(i) == '{' ? 1 : format.charAt(i) == '}' ? -1 : 0;
            if (open == 0) {
                return i;
            }
        }
        throw Fault.value(from == format.length() ? "Single '{' encountered in format string"
                : "expected '}' before end of string");
    }

    private String field(String field, int nesting) {
        int end = 0;
        boolean bracket = false;
        while (end < field.length() && (bracket || field.charAt(end) != '!' && field.charAt(end) != ':')) {
            bracket = field.charAt(end) == '[' || bracket && field.charAt(end) != ']';
            end++;
        }
        Object value = value(field.substring(0, end));
        char conversion = 0;
        if (end < field.length() && field.charAt(end) == '!') {
            conversion = end + 1 < field.length() ? field.charAt(end + 1) : 0;
            end += 2;
            if (end < field.length() && field.charAt(end) != ':' || conversion == 0) {
                throw Fault.value("expected ':' after conversion specifier");
            }
        }
        String spec = end < field.length()
                ? format(field.substring(end + 1), nesting - 1 + (field.indexOf('{', end) < 0 ? 1 : 0))
                : "";
        Object converted = switch (conversion) {
            case 0 -> value;
            case 's' -> in.str(value);
            case 'r', 'a' -> Repr.repr(in.session, value);
            default -> throw Fault.value("Unknown conversion specifier " + conversion);
        };
        return new FormatSpec(spec).apply(in, converted);
    }

    private Object value(String name) {
        int end = 0;
        while (end < name.length() && name.charAt(end) != '.' && name.charAt(end) != '[') {
            end++;
        }
        Object value = first(name.substring(0, end));
        while (end < name.length()) {
            int start = end + 1;
            if (name.charAt(end) == '.') {
                end = start;
                while (end < name.length() && name.charAt(end) != '.' && name.charAt(end) != '[') {
                    end++;
                }
                value = Access.attribute(in, value, name.substring(start, end));
            } else {
                end = name.indexOf(']', start);
                if (end < 0) {
                    throw Fault.value("Missing ']' in format string");
                }
                String index = name.substring(start, end);
                boolean digits =
                        !index.isEmpty() && index.length() < 18 && index.chars().allMatch(c -> c >= '0' && c <= '9');
                value = Access.item(in, value, digits ? (Object) Long.valueOf(index) : index);
                end++;
            }
        }
        return value;
    }

    private Object first(String name) {
        boolean number = !name.isEmpty() && name.length() < 9 && name.chars().allMatch(c -> c >= '0' && c <= '9');
        if (name.isEmpty() || number) {
            if (name.isEmpty() ? numbered : automatic > 0) {
                throw Fault.value(name.isEmpty()
                        ? "cannot switch from manual field specification to automatic field numbering"
                        : "cannot switch from automatic field numbering to manual field specification");
            }
            numbered |= number;
            int index = number ? Integer.parseInt(name) : automatic++;
            if (index >= args.positional().size()) {
                throw Fault.lookup("Replacement index " + index + " out of range for positional args tuple");
            }
            return args.positional().get(index);
        }
        if (!args.named().containsKey(name)) {
            throw Fault.lookup(Repr.quote(name));
        }
        return args.named().get(name);
    }

    /** {@code [[fill]align][sign][z][#][0][width][,|_][.precision][type]}. */
    private static final class FormatSpec {

        private final String spec;
        private String fill = " ";
        private char align;
        private char sign = '-';
        private boolean alternate;
        private int width;
        private String grouping = "";
        private int precision = -1;
        private char type;
        private int at;

        FormatSpec(String spec) {
            this.spec = spec;
            int first = spec.isEmpty() ? 0 : Character.charCount(spec.codePointAt(0));
            if (spec.length() > first && "<>=^".indexOf(spec.charAt(first)) >= 0) {
                fill = spec.substring(0, first);
                align = spec.charAt(first);
                at = first + 1;
            } else if (!spec.isEmpty() && "<>=^".indexOf(spec.charAt(0)) >= 0) {
                align = spec.charAt(at++);
            }
            if (at < spec.length() && "+- ".indexOf(spec.charAt(at)) >= 0) {
                sign = spec.charAt(at++);
            }
            alternate = take('#');
            if (take('0')) {
                fill = align == 0 ? "0" : fill;
                align = align == 0 ? '=' : align;
            }
            width = number(0);
            if (at < spec.length() && ",_".indexOf(spec.charAt(at)) >= 0) {
                grouping = spec.substring(at, ++at);
            }
            if (take('.')) {
                precision = number(-1);
                if (precision < 0) {
                    throw Fault.value("Format specifier missing precision");
                }
            }
            if (at < spec.length()) {
                type = spec.charAt(at++);
            }
            if (at < spec.length()) {
                throw Fault.value("Invalid format specifier");
            }
        }

        private boolean take(char c) {
            boolean there = at < spec.length() && spec.charAt(at) == c;
            at += there ? 1 : 0;
            return there;
        }

        private int number(int absent) {
            int start = at;
            while (at < spec.length() && spec.charAt(at) >= '0' && spec.charAt(at) <= '9') {
                at++;
            }
            if (at - start > 9) {
                throw Fault.value("Too many decimal digits in format string");
            }
            return at == start ? absent : Integer.parseInt(spec.substring(start, at));
        }

        String apply(Interpreter in, Object value) {
            in.session.room(width);
            if (Num.isNumber(value) && !(value instanceof Boolean && spec.isEmpty())) {
                boolean real = value instanceof Double || type != 0 && "eEfFgG%".indexOf(type) >= 0;
                return real ? real(Num.real(value)) : integer(value);
            }
            if (!Py.isString(value) && !(value instanceof Boolean) && !spec.isEmpty()) {
                throw Fault.type("unsupported format string passed to " + Py.typeName(value) + ".__format__");
            }
            String text = value instanceof Undefined ? "" : in.str(value);
            if (type != 0 && type != 's') {
                throw Fault.value("Unknown format code '" + type + "' for object of type 'str'");
            }
            boolean cut = precision >= 0 && Unicode.length(text) > precision;
            return pad("", cut ? Unicode.substring(text, 0, precision) : text, '<');
        }

        private String integer(Object value) {
            BigInteger integer = Num.big(value);
            int radix = switch (type) {
                case 0, 'd', 'n' -> 10;
                case 'x', 'X' -> 16;
                case 'o' -> 8;
                case 'b' -> 2;
                case 'c' -> 0;
                default -> throw Fault.value("Unknown format code '" + type + "' for object of type 'int'");
            };
            if (radix == 0) {
                return pad("", Character.toString(Py.integer(value)), '<');
            }
            String digits = grouped(NumberFormat.digits(integer, radix), radix == 10 ? 3 : 4);
            String prefix = alternate && radix != 10 ? "0" + Character.toLowerCase(type) : "";
            String text = type == 'X' ? Unicode.upper(digits) : digits;
            return pad(sign(integer.signum() < 0) + (type == 'X' ? Unicode.upper(prefix) : prefix), text, '>');
        }

        private String real(double value) {
            String digits = switch (type) {
                case 0 -> precision < 0 ? Repr.real(Math.abs(value)) : general(value);
                case 'e', 'E', 'f', 'F', 'g', 'G' ->
                    NumberFormat.magnitude(value, type, precision < 0 ? 6 : precision, alternate);
                case '%' -> NumberFormat.magnitude(value * 100, 'f', precision < 0 ? 6 : precision, alternate) + "%";
                default -> throw Fault.value("Unknown format code '" + type + "' for object of type 'float'");
            };
            return pad(sign(value < 0 || value == 0 && 1 / value < 0), grouped(digits, 3), '>');
        }

        private String general(double value) {
            String text = NumberFormat.magnitude(value, 'g', precision, alternate);
            return text.matches("\\d+") ? text + ".0" : text;
        }

        private String sign(boolean negative) {
            return negative ? "-" : sign == '-' ? "" : String.valueOf(sign);
        }

        private String grouped(String digits, int size) {
            if (grouping.isEmpty()) {
                return digits;
            }
            int end = 0;
            while (end < digits.length() && Character.digit(digits.charAt(end), 16) >= 0 && digits.charAt(end) != 'e') {
                end++;
            }
            StringBuilder out = new StringBuilder(digits);
            for (int i = end - size; i > 0; i -= size) {
                out.insert(i, grouping);
            }
            return out.toString();
        }

        private String pad(String head, String text, char natural) {
            char side = align == 0 ? natural : align;
            int missing = Math.max(0, width - Unicode.length(head) - Unicode.length(text));
            return switch (side) {
                case '<' -> head + text + fill.repeat(missing);
                case '^' -> fill.repeat(missing / 2) + head + text + fill.repeat(missing - missing / 2);
                case '=' -> head + fill.repeat(missing) + text;
                default -> fill.repeat(missing) + head + text;
            };
        }
    }
}
