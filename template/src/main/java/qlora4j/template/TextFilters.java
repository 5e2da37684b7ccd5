package qlora4j.template;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.template.Filters.Filter;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** The filters on text. */
final class TextFilters {

    private static final Pattern WORD_PART =
            Pattern.compile("[-\\s({\\[<]+|[^-\\s({\\[<]+", Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern WORD = Pattern.compile("\\w+", Pattern.UNICODE_CHARACTER_CLASS);
    private static final Pattern BAD_ATTRIBUTE = Pattern.compile("[\\s/>=]");
    private static final int DEFAULT_TRUNCATE = 255;
    private static final int DEFAULT_LEEWAY = 5;
    private static final int DEFAULT_CENTER = 80;
    private static final int DEFAULT_INDENT = 4;

    private TextFilters() {
    }

    static void register(Map<String, Filter> filters) {
        method(filters, "upper");
        method(filters, "lower");
        method(filters, "capitalize");
        filters.put("title", (in, v, a) -> {
            a.none("title");
            return in.session.built(title(in.str(v)));
        });
        filters.put("trim", (in, v, a) -> Html.like(v, in.session.built(
                StringMethods.strip(in.str(v), a.bind("trim", 0, "chars")[0], true, true))));
        filters.put("string", (in, v, a) -> {
            a.none("string");
            return v instanceof Markup ? v : in.str(v);
        });
        filters.put("replace", TextFilters::replace);
        filters.put("format", (in, v, a) -> {
            if (!a.named().isEmpty() && !a.positional().isEmpty()) {
                throw Fault.type("can't handle positional and keyword arguments at the same time");
            }
            Dict named = new Dict();
            a.named().forEach(named::put);
            return Ops.binary(in, "%", soft(in, v), named.size() > 0 ? named : Seq.tuple(a.positional()));
        });
        filters.put("center", (in, v, a) -> Access.member(in, soft(in, v), "center") instanceof Values.Callable center
                ? center.call(in, Args.of(Filters.or(a.bind("center", 0, "width")[0], (long) DEFAULT_CENTER)))
                : null);
        filters.put("indent", TextFilters::indent);
        filters.put("truncate", TextFilters::truncate);
        filters.put("wordcount", (in, v, a) -> {
            a.none("wordcount");
            return WORD.matcher(in.str(v)).results().count();
        });
        filters.put("escape", (in, v, a) -> escape(in, v));
        filters.put("e", (in, v, a) -> escape(in, v));
        filters.put("forceescape", (in, v, a) -> new Markup(in.session.built(Html.escape(in.str(v)))));
        filters.put("safe", (in, v, a) -> new Markup(in.str(v)));
        filters.put("striptags", (in, v, a) -> in.session.built(Html.stripTags(in.str(v))));
        filters.put("urlencode", (in, v, a) -> in.session.built(urlEncode(in, v)));
        filters.put("xmlattr", TextFilters::attributes);
    }

    /** A filter that is the string method of the same name without arguments. */
    private static void method(Map<String, Filter> filters, String name) {
        filters.put(name, (in, value, args) -> {
            args.none(name);
            return in.call(Access.member(in, soft(in, value), name), Args.NONE);
        });
    }

    /** The value as a string; a safe one stays safe. */
    private static Object soft(Interpreter in, Object value) {
        return value instanceof Markup ? value : in.str(value);
    }

    private static Markup escape(Interpreter in, Object value) {
        return value instanceof Markup markup ? markup : new Markup(in.session.built(Html.escape(in.str(value))));
    }

    private static String title(String text) {
        StringBuilder out = new StringBuilder();
        Matcher parts = WORD_PART.matcher(text);
        while (parts.find()) {
            String part = parts.group();
            int head = Character.charCount(part.codePointAt(0));
            out.append(Unicode.upper(part.substring(0, head))).append(Unicode.lower(part.substring(head)));
        }
        return out.toString();
    }

    private static Object replace(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("replace", 2, "old", "new", "count");
        Object count = Filters.or(bound[2], null);
        return StringMethods.replace(in.session, in.str(value), in.str(bound[0]), in.str(bound[1]),
                count == null ? -1 : Py.integer(count));
    }

    private static Object indent(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("indent", 0, "width", "first", "blank");
        Object width = Filters.or(bound[0], (long) DEFAULT_INDENT);
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Py.isString(value)) {
            throw Fault.type("unsupported operand type(s) for +=: " + Repr.quote(Py.typeName(value)) + " and 'str'");
        }
        String indention;
        if (Py.isString(width)) {
            indention = Py.text(width);
        } else {
            int blanks = Math.max(0, Py.integer(width));
            in.session.room(blanks);
            indention = " ".repeat(blanks);
        }
        boolean blank = Filters.flag(bound[2]);
        List<Object> lines = Unicode.lines(Py.text(value) + "\n", false);
        in.session.room((long) lines.size() * (indention.length() + 1) + Py.text(value).length());
        StringBuilder out = new StringBuilder(Filters.flag(bound[1]) ? indention : "");
        for (int i = 0; i < lines.size(); i++) {
            String line = (String) lines.get(i);
            out.append(i == 0 ? "" : "\n").append(i > 0 && (blank || !line.isEmpty()) ? indention : "").append(line);
        }
        return Html.like(value, out.toString());
    }

    private static Object truncate(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("truncate", 0, "length", "killwords", "end", "leeway");
        int length = Py.integer(Filters.or(bound[0], (long) DEFAULT_TRUNCATE));
        String end = in.str(Filters.or(bound[2], "..."));
        Object leewayGiven = Filters.or(bound[3], null);
        int leeway = leewayGiven == null ? DEFAULT_LEEWAY : Py.integer(leewayGiven);
        int cut = length - Unicode.length(end);
        if (cut < 0) {
            throw Fault.value("expected length >= " + Unicode.length(end) + ", got " + length);
        }
        if (leeway < 0) {
            throw Fault.value("expected leeway >= 0, got " + leeway);
        }
        if (Py.length(value) <= (long) length + leeway) {
            return value;
        }
        String head = Unicode.substring(Py.string(value, "the value to truncate"), 0, cut);
        if (!Filters.flag(bound[1]) && head.lastIndexOf(' ') >= 0) {
            head = head.substring(0, head.lastIndexOf(' '));
        }
        return Html.like(value, in.session.built(head + end));
    }

    private static String urlEncode(Interpreter in, Object value) {
        if (Py.isString(value) || !Py.isIterable(value)) {
            return quoteUrl(in.str(value), "/");
        }
        List<String> pairs = new ArrayList<>();
        for (Object item : value instanceof Dict dict ? dict.items() : Py.list(in.session, value)) {
            List<Object> pair = Py.list(in.session, item);
            if (pair.size() != 2) {
                throw Fault.value("urlencode needs pairs of a key and a value");
            }
            pairs.add(quoteUrl(in.str(pair.get(0)), "").replace("%20", "+") + "="
                    + quoteUrl(in.str(pair.get(1)), "").replace("%20", "+"));
        }
        return String.join("&", pairs);
    }

    private static String quoteUrl(String text, String safe) {
        StringBuilder out = new StringBuilder();
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
            char c = (char) (b & 0xff);
            boolean plain =
                    c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || "_.-~".indexOf(c) >= 0;
            out.append(plain || safe.indexOf(c) >= 0 ? String.valueOf(c) : String.format("%%%02X", (int) c));
        }
        return out.toString();
    }

    private static Object attributes(Interpreter in, Object value, Args args) {
        Object spaced = Filters.or(args.bind("xmlattr", 0, "autospace")[0], true);
        if (!(value instanceof Dict dict)) {
            throw Fault.type("xmlattr needs a mapping, not " + Py.typeName(value));
        }
        List<String> items = new ArrayList<>();
        for (Dict.Entry entry : dict.entries()) {
            if (entry.value() == null || entry.value() instanceof Undefined) {
                continue;
            }
            String key = Py.string(entry.key(), "an attribute name");
            if (BAD_ATTRIBUTE.matcher(key).find()) {
                throw Fault.value("Invalid character in attribute name: " + Repr.quote(key));
            }
            items.add(Html.escape(key) + "=\"" + escape(in, entry.value()).text() + "\"");
        }
        String text = String.join(" ", items);
        return in.session.built(Py.truth(spaced) && !text.isEmpty() ? " " + text : text);
    }
}
