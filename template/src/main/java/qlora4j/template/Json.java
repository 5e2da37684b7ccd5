package qlora4j.template;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.List;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Seq;

/** Python's {@code json.dumps} with the settings that the filter {@code tojson} passes on. */
final class Json {

    private final Session session;
    private final boolean ascii;
    private final String indent;
    private final String itemSeparator;
    private final String keySeparator;
    private final boolean sorted;
    private final StringBuilder out = new StringBuilder();

    private Json(Session session, boolean ascii, String indent, String itemSeparator, String keySeparator,
            boolean sorted) {
        this.session = session;
        this.ascii = ascii;
        this.indent = indent;
        this.itemSeparator = itemSeparator;
        this.keySeparator = keySeparator;
        this.sorted = sorted;
    }

    /** The filter {@code tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)}. */
    static Object filter(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys");
        boolean ascii = bound[0] != Values.MISSING && Py.truth(bound[0]);
        String indent = null;
        if (Py.isString(bound[1])) {
            indent = Py.text(bound[1]);
        } else if (bound[1] != Values.MISSING && bound[1] != null) {
            int width = Math.max(0, Py.integer(bound[1]));
            in.session.room(width);
            indent = " ".repeat(width);
        }
        String items = indent == null ? ", " : ",";
        String keys = ": ";
        if (bound[2] != Values.MISSING && bound[2] != null) {
            List<Object> separators = Py.list(in.session, bound[2]);
            if (separators.size() != 2) {
                throw Fault.value("tojson: separators must be a pair");
            }
            items = Py.string(separators.get(0), "tojson: a separator");
            keys = Py.string(separators.get(1), "tojson: a separator");
        }
        Json json = new Json(in.session, ascii, indent, items, keys, bound[3] != Values.MISSING && Py.truth(bound[3]));
        json.write(value, 1);
        return in.session.built(json.out.toString());
    }

    private void write(Object value, int level) {
        session.enter();
        session.tick(1);
        switch (value) {
            case null -> out.append("null");
            case Boolean flag -> out.append(flag);
            case String text -> string(text);
            case Markup markup -> string(markup.text());
            case Long integer -> out.append(integer);
            case BigInteger integer -> out.append(Repr.digits(integer));
            case Double real -> out.append(real(real));
            case Seq seq -> list(seq.items(), level);
            case Dict dict -> dict(dict, level);
            default -> throw Fault.type("Object of type " + Py.typeName(value) + " is not JSON serializable");
        }
        session.checkLength(out.length());
        session.leave();
    }

    private static String real(double value) {
        return Double.isNaN(value) ? "NaN"
                : Double.isInfinite(value) ? value > 0 ? "Infinity" : "-Infinity" : Repr.real(value);
    }

    private void list(List<Object> items, int level) {
        out.append('[');
        boolean first = true;
        for (Object item : items) {
            next(first, level);
            write(item, level + 1);
            first = false;
        }
        close(']', first, level);
    }

    private void dict(Dict dict, int level) {
        List<Dict.Entry> entries = new ArrayList<>(dict.entries());
        if (sorted) {
            entries = Sorting.sorted(session, entries, Dict.Entry::key, false);
        }
        out.append('{');
        boolean first = true;
        for (Dict.Entry entry : entries) {
            next(first, level);
            string(key(entry.key()));
            out.append(keySeparator);
            write(entry.value(), level + 1);
            first = false;
        }
        close('}', first, level);
    }

    private void next(boolean first, int level) {
        if (!first) {
            out.append(itemSeparator);
        }
        if (indent != null) {
            line(level);
        }
    }

    private void close(char bracket, boolean empty, int level) {
        if (indent != null && !empty) {
            line(level - 1);
        }
        out.append(bracket);
    }

    private void line(int level) {
        session.checkLength(out.length() + (long) indent.length() * level);
        out.append('\n').append(indent.repeat(level));
    }

    private String key(Object key) {
        return switch (key) {
            case String text -> text;
            case Markup markup -> markup.text();
            case null -> "null";
            case Boolean flag -> flag.toString();
            case Double real -> real(real);
            default -> {
                if (!Num.isInteger(key)) {
                    throw Fault.type("keys must be str, int, float, bool or None, not " + Py.typeName(key));
                }
                yield Repr.digits(Num.big(key));
            }
        };
    }

    private void string(String text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '"' -> out.append("\\\"");
                case '\\' -> out.append("\\\\");
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                case '\b' -> out.append("\\b");
                case '\f' -> out.append("\\f");
                default -> {
                    if (c < ' ' || ascii && c > '~') {
                        out.append(String.format("\\u%04x", (int) c));
                    } else {
                        out.append(c);
                    }
                }
            }
        }
        out.append('"');
    }
}
