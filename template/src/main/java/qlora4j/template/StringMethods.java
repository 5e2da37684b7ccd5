package qlora4j.template;

import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.function.IntPredicate;
import qlora4j.template.Values.Function;
import qlora4j.template.Values.Seq;

/** The methods of {@code str}. */
final class StringMethods {

    private interface Method {
        Object call(Interpreter in, String self, Args args);
    }

    private static final Map<String, Method> METHODS = new HashMap<>();

    static {
        METHODS.put("upper", (in, s, a) -> none("upper", a, in.session.built(Unicode.upper(s))));
        METHODS.put("lower", (in, s, a) -> none("lower", a, in.session.built(Unicode.lower(s))));
        METHODS.put("casefold", (in, s, a) -> none("casefold", a, in.session.built(Unicode.lower(Unicode.upper(s)))));
        METHODS.put("capitalize", (in, s, a) -> none("capitalize", a, in.session.built(Unicode.capitalize(s))));
        METHODS.put("title", (in, s, a) -> none("title", a, in.session.built(title(s))));
        METHODS.put("swapcase", (in, s, a) -> none("swapcase", a, in.session.built(swapCase(s))));
        METHODS.put("strip", (in, s, a) -> in.session.built(strip(s, a.bind("strip", 0, "/chars")[0], true, true)));
        METHODS.put("lstrip", (in, s, a) -> in.session.built(strip(s, a.bind("lstrip", 0, "/chars")[0], true, false)));
        METHODS.put("rstrip", (in, s, a) -> in.session.built(strip(s, a.bind("rstrip", 0, "/chars")[0], false, true)));
        METHODS.put("split", (in, s, a) -> SplitMethods.split(in, s, a, false));
        METHODS.put("rsplit", (in, s, a) -> SplitMethods.split(in, s, a, true));
        METHODS.put("splitlines", (in, s, a) -> SplitMethods.lines(in, s, a));
        METHODS.put("partition", (in, s, a) -> SplitMethods.partition(in, s, a, false));
        METHODS.put("rpartition", (in, s, a) -> SplitMethods.partition(in, s, a, true));
        METHODS.put("replace", StringMethods::replace);
        METHODS.put("join", (in, s, a) -> join(in, s, a.bind("join", 1, "/iterable")[0]));
        METHODS.put("startswith", (in, s, a) -> affix(in, "startswith", s, a));
        METHODS.put("endswith", (in, s, a) -> affix(in, "endswith", s, a));
        METHODS.put("removeprefix", (in, s, a) -> {
            String prefix = Py.string(a.bind("removeprefix", 1, "/prefix")[0], "removeprefix() argument");
            return s.startsWith(prefix) ? in.session.built(s.substring(prefix.length())) : s;
        });
        METHODS.put("removesuffix", (in, s, a) -> {
            String suffix = Py.string(a.bind("removesuffix", 1, "/suffix")[0], "removesuffix() argument");
            return s.endsWith(suffix) ? in.session.built(s.substring(0, s.length() - suffix.length())) : s;
        });
        METHODS.put("find", (in, s, a) -> find(in, "find", s, a));
        METHODS.put("rfind", (in, s, a) -> find(in, "rfind", s, a));
        METHODS.put("index", (in, s, a) -> found(find(in, "index", s, a)));
        METHODS.put("rindex", (in, s, a) -> found(find(in, "rindex", s, a)));
        METHODS.put("count", StringMethods::count);
        METHODS.put("center", (in, s, a) -> pad(in, "center", s, a));
        METHODS.put("ljust", (in, s, a) -> pad(in, "ljust", s, a));
        METHODS.put("rjust", (in, s, a) -> pad(in, "rjust", s, a));
        METHODS.put("zfill", (in, s, a) -> {
            int missing = Py.integer(a.bind("zfill", 1, "/width")[0]) - Unicode.length(s);
            in.session.room(Math.max(0, missing) + (long) s.length());
            int sign = s.startsWith("-") || s.startsWith("+") ? 1 : 0;
            return missing <= 0 ? s : s.substring(0, sign) + "0".repeat(missing) + s.substring(sign);
        });
        METHODS.put("expandtabs", StringMethods::expandTabs);
        METHODS.put("format", (in, s, a) -> in.session.built(BraceFormat.format(in, s, a)));
        METHODS.put("format_map", (in, s, a) -> {
            if (!(a.bind("format_map", 1, "/mapping")[0] instanceof Dict dict)) {
                throw Fault.type("format_map() takes a mapping");
            }
            Map<String, Object> named = new HashMap<>();
            dict.entries().forEach(e -> named.put(in.str(e.key()), e.value()));
            return in.session.built(BraceFormat.format(in, s, new Args(List.of(), named)));
        });
        METHODS.put("isalnum",
                (in, s, a) -> none("isalnum", a, every(s, c -> Character.isLetterOrDigit(c) || isNumeric(c))));
        METHODS.put("isalpha", (in, s, a) -> none("isalpha", a, every(s, Character::isLetter)));
        METHODS.put("isascii", (in, s, a) -> none("isascii", a, s.codePoints().allMatch(c -> c < 128)));
        METHODS.put("isdecimal", (in, s, a) -> none("isdecimal", a, every(s, Character::isDigit)));
        METHODS.put("isdigit", (in, s, a) -> none("isdigit", a, every(s, StringMethods::isDigit)));
        METHODS.put("isnumeric", (in, s, a) -> none("isnumeric", a, every(s, StringMethods::isNumeric)));
        METHODS.put("isspace", (in, s, a) -> none("isspace", a, every(s, Unicode::isSpace)));
        METHODS.put("isprintable", (in, s, a) -> none("isprintable", a, s.codePoints().allMatch(Unicode::isPrintable)));
        METHODS.put("isidentifier", (in, s, a) -> none("isidentifier", a, !s.isEmpty()
                && (s.charAt(0) == '_' || Character.isUnicodeIdentifierStart(s.codePointAt(0)))
                && s.codePoints()
                        .allMatch(c -> Character.isUnicodeIdentifierPart(c) && !Character.isIdentifierIgnorable(c))));
        METHODS.put("islower", (in, s, a) -> none("islower", a, isLower(s)));
        METHODS.put("isupper", (in, s, a) -> none("isupper", a, isUpper(s)));
        METHODS.put("istitle", (in, s, a) -> none("istitle", a, isTitle(s)));
    }

    private StringMethods() {
    }

    /** A string's method of this name, or null. */
    static Object of(String self, String name) {
        Method method = METHODS.get(name);
        return method == null ? null : Function.method(name, (in, args) -> method.call(in, self, args));
    }

    private static Object none(String name, Args args, Object result) {
        args.none(name);
        return result;
    }

    private static boolean every(String text, IntPredicate is) {
        return !text.isEmpty() && text.codePoints().allMatch(is);
    }

    private static boolean isDigit(int c) {
        return Character.isDigit(c) || Character.getType(c) == Character.OTHER_NUMBER && (c >= 0x2460 && c <= 0x2468
                || c >= 0x2474 && c <= 0x247c || c >= 0x2488 && c <= 0x2490 || c == 0xb2 || c == 0xb3 || c == 0xb9
                || c >= 0x2070 && c <= 0x2089 || c >= 0x2776 && c <= 0x277e || c == 0x24ea || c == 0x24ff);
    }

    private static boolean isNumeric(int c) {
        return Character.isDigit(c) || Character.getType(c) == Character.OTHER_NUMBER
                || Character.getType(c) == Character.LETTER_NUMBER
                || Character.getNumericValue(c) >= 0 && !Character.isLetter(c);
    }

    static boolean isLower(String text) {
        return text.codePoints().noneMatch(c -> Character.isUpperCase(c) || Character.isTitleCase(c))
                && text.codePoints().anyMatch(Character::isLowerCase);
    }

    static boolean isUpper(String text) {
        return text.codePoints().noneMatch(c -> Character.isLowerCase(c) || Character.isTitleCase(c))
                && text.codePoints().anyMatch(Character::isUpperCase);
    }

    private static boolean isTitle(String text) {
        boolean inside = false;
        boolean any = false;
        for (int c : text.codePoints().toArray()) {
            boolean upper = Character.isUpperCase(c) || Character.isTitleCase(c);
            if (upper && inside || !upper && Character.isLowerCase(c) && !inside) {
                return false;
            }
            inside = Unicode.isCased(c);
            any |= inside;
        }
        return any;
    }

    private static String title(String text) {
        StringBuilder out = new StringBuilder();
        boolean inside = false;
        for (int c : text.codePoints().toArray()) {
            out.append(inside ? Unicode.lower(Character.toString(c)) : Unicode.titleCase(c));
            inside = Unicode.isCased(c);
        }
        return out.toString();
    }

    private static String swapCase(String text) {
        StringBuilder out = new StringBuilder();
        text.codePoints().forEach(c -> {
            String single = Character.toString(c);
            out.append(Character.isUpperCase(c) ? Unicode.lower(single) : Unicode.upper(single));
        });
        return out.toString();
    }

    static String strip(String text, Object chars, boolean start, boolean end) {
        IntPredicate drop = Unicode::isSpace;
        if (chars != Values.MISSING && chars != null) {
            String set = Py.string(chars, "strip arg");
            drop = c -> set.indexOf(c) >= 0;
        }
        String head = start ? Unicode.stripStart(text, drop) : text;
        return end ? Unicode.stripEnd(head, drop) : head;
    }

    private static Object replace(Interpreter in, String self, Args args) {
        Object[] bound = args.bind("replace", 2, "/old", "/new", "/count");
        return replace(in.session, self, Py.string(bound[0], "replace() argument 1"),
                Py.string(bound[1], "replace() argument 2"), bound[2] == Values.MISSING ? -1 : Py.integer(bound[2]));
    }

    /** Replaces the first {@code count} occurrences, all where it is negative. */
    static String replace(Session session, String text, String old, String with, int count) {
        StringBuilder out = new StringBuilder();
        int at = 0;
        for (int done = 0; count < 0 || done < count; done++) {
            int next;
            if (old.isEmpty()) {
                next = done == 0 ? 0 : at >= text.length() ? -1 : at + Character.charCount(text.codePointAt(at));
            } else {
                next = Ops.find(session, text, old, at);
            }
            if (next < 0) {
                break;
            }
            session.checkLength((long) out.length() + next - at + with.length());
            out.append(text, at, next).append(with);
            at = next + old.length();
        }
        return session.built(out.append(text, at, text.length()).toString());
    }

    static String join(Interpreter in, String separator, Object iterable) {
        StringBuilder out = new StringBuilder();
        Iterator<Object> items = Py.iterate(in.session, iterable);
        for (int i = 0; items.hasNext(); i++) {
            Object item = items.next();
            if (!Py.isString(item)) {
                throw Fault.type("sequence item " + i + ": expected str instance, " + Py.typeName(item) + " found");
            }
            in.session.checkLength((long) out.length() + separator.length() + Py.text(item).length());
            out.append(i == 0 ? "" : separator).append(Py.text(item));
        }
        return in.session.built(out.toString());
    }

    /** The part of a text that optional start and stop arguments mean, as offsets in chars; null where they cross. */
    private static int[] window(String text, Object start, Object stop) {
        int length = Unicode.length(text);
        long from = start == Values.MISSING || start == null ? 0 : Py.integer(start);
        int first = (int) (from < 0 ? Math.max(0, from + length) : from);
        int last = stop == Values.MISSING || stop == null ? length : Methods.clampIndex(Py.integer(stop), length);
        return first > last ? null : new int[]{Unicode.offset(text, first), Unicode.offset(text, last)};
    }

    private static Object affix(Interpreter in, String name, String text, Args args) {
        Object[] bound = args.bind(name, 1, "/prefix", "/start", "/end");
        int[] window = window(text, bound[1], bound[2]);
        List<Object> affixes = bound[0] instanceof Seq seq && seq.tuple() ? seq.items()
                : List.of(
                        Py.isString(bound[0]) ? bound[0]
                                : Py.string(bound[0], name + " first arg must be str or a tuple of str; it"));
        for (Object affix : affixes) {
            String part = Py.string(affix, "tuple for " + name + " must only contain str; an element");
            if (window == null) {
                continue;
            }
            String inside = text.substring(window[0], window[1]);
            if (name.equals("startswith") ? inside.startsWith(part) : inside.endsWith(part)) {
                return true;
            }
        }
        return false;
    }

    private static long find(Interpreter in, String name, String text, Args args) {
        Object[] bound = args.bind(name, 1, "/sub", "/start", "/end");
        String part = Py.string(bound[0], name + "() argument 1");
        int[] window = window(text, bound[1], bound[2]);
        if (window == null) {
            return -1;
        }
        String inside = text.substring(window[0], window[1]);
        int at = Ops.find(in.session, inside, part, 0);
        if (at >= 0 && name.startsWith("r")) {
            at = inside.lastIndexOf(part);
        }
        return at < 0 ? -1 : text.codePointCount(0, window[0] + at);
    }

    private static long found(long index) {
        if (index < 0) {
            throw Fault.value("substring not found");
        }
        return index;
    }

    private static Object count(Interpreter in, String text, Args args) {
        Object[] bound = args.bind("count", 1, "/sub", "/start", "/end");
        String part = Py.string(bound[0], "count() argument 1");
        int[] window = window(text, bound[1], bound[2]);
        if (window == null) {
            return 0L;
        }
        String inside = text.substring(window[0], window[1]);
        if (part.isEmpty()) {
            return Unicode.length(inside) + 1L;
        }
        long count = 0;
        for (int at = Ops.find(in.session, inside, part, 0); at >= 0; at = inside.indexOf(part, at + part.length())) {
            count++;
        }
        return count;
    }

    private static Object pad(Interpreter in, String name, String text, Args args) {
        Object[] bound = args.bind(name, 1, "/width", "/fillchar");
        String fill = bound[1] == Values.MISSING ? " " : Py.string(bound[1], "The fill character");
        if (Unicode.length(fill) != 1) {
            throw Fault.type("The fill character must be exactly one character long");
        }
        int width = Py.integer(bound[0]);
        int missing = Math.max(0, width - Unicode.length(text));
        in.session.room((long) text.length() + (long) missing * fill.length());
        int left = switch (name) {
            case "ljust" -> 0;
            case "rjust" -> missing;
            default -> missing / 2 + (missing & width & 1);
        };
        return fill.repeat(left) + text + fill.repeat(missing - left);
    }

    private static Object expandTabs(Interpreter in, String text, Args args) {
        Object given = args.bind("expandtabs", 0, "tabsize")[0];
        int size = given == Values.MISSING ? 8 : Py.integer(given);
        StringBuilder out = new StringBuilder();
        int column = 0;
        for (int c : text.codePoints().toArray()) {
            if (c == '\t') {
                int blanks = size <= 0 ? 0 : size - column % size;
                in.session.checkLength((long) out.length() + blanks);
                out.append(" ".repeat(blanks));
                column += blanks;
            } else {
                out.appendCodePoint(c);
                column = c == '\n' || c == '\r' ? 0 : column + 1;
            }
        }
        return in.session.built(out.toString());
    }
}
