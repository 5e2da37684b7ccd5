package qlora4j.template;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Generator;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Slice;
import qlora4j.template.Values.Undefined;
import qlora4j.template.Values.View;

/** What Python's builtins do with a value: {@code type, bool, len, iter, list, int}. */
final class Py {

    private Py() {
    }

    static String typeName(Object value) {
        return switch (value) {
            case null -> "NoneType";
            case String s -> "str";
            case Boolean b -> "bool";
            case Long l -> "int";
            case BigInteger i -> "int";
            case Double d -> "float";
            case Seq seq -> seq.tuple() ? "tuple" : "list";
            case Dict d -> "dict";
            case Markup m -> "Markup";
            case Range r -> "range";
            case Generator g -> g.typeName();
            case View v -> "dict_" + v.kind();
            case Undefined u -> "Undefined";
            case Namespace n -> "Namespace";
            case Slice s -> "slice";
            case Attributes a -> a.typeName();
            case Callable c -> c.typeName();
            default -> throw new IllegalStateException("no template value: " + value.getClass());
        };
    }

    static boolean isString(Object value) {
        return value instanceof String || value instanceof Markup;
    }

    /** The characters of a string value. */
    static String text(Object string) {
        return string instanceof Markup markup ? markup.text() : (String) string;
    }

    static boolean truth(Object value) {
        return switch (value) {
            case null -> false;
            case Boolean b -> b;
            case Long l -> l != 0;
            case BigInteger i -> i.signum() != 0;
            case Double d -> d != 0;
            case String s -> !s.isEmpty();
            case Markup m -> !m.text().isEmpty();
            case Seq seq -> !seq.items().isEmpty();
            case Dict d -> d.size() > 0;
            case View v -> v.dict().size() > 0;
            case Range r -> r.length() > 0;
            case Undefined u -> false;
            default -> true;
        };
    }

    /** {@code len(value)}, or -1 where the type has none. */
    static long lengthOrNone(Object value) {
        return switch (value) {
            case String s -> Unicode.length(s);
            case Markup m -> Unicode.length(m.text());
            case Seq seq -> seq.items().size();
            case Dict d -> d.size();
            case View v -> v.dict().size();
            case Range r -> r.length();
            case Undefined u -> 0;
            case Loop loop -> loop.length();
            case null, default -> -1;
        };
    }

    static long length(Object value) {
        long length = lengthOrNone(value);
        if (length < 0) {
            throw Fault.type("object of type " + Repr.quote(typeName(value)) + " has no len()");
        }
        return length;
    }

    static boolean isIterable(Object value) {
        return switch (value) {
            case String s -> true;
            case Markup m -> true;
            case Seq seq -> true;
            case Dict d -> true;
            case View v -> true;
            case Range r -> true;
            case Generator g -> true;
            case Undefined u -> true;
            case null, default -> false;
        };
    }

    /** {@code iter(value)}; every element taken counts as a step. */
    static Iterator<Object> iterate(Session session, Object value) {
        Iterator<Object> items = switch (value) {
            case String s -> characters(s);
            case Markup m -> characters(m.text());
            case Seq seq -> seq.items().iterator();
            case Dict d -> d.keys().iterator();
            case View v -> viewed(v).iterator();
            case Range r -> numbers(r);
            case Generator g -> g.items();
            case Undefined u -> List.<Object>of().iterator();
            case null, default -> throw Fault.type(Repr.quote(typeName(value)) + " object is not iterable");
        };
        return new Iterator<>() {
            @Override
            public boolean hasNext() {
                return items.hasNext();
            }

            @Override
            public Object next() {
                session.tick(1);
                return items.next();
            }
        };
    }

    private static Iterator<Object> characters(String text) {
        return new Iterator<>() {
            private int at;

            @Override
            public boolean hasNext() {
                return at < text.length();
            }

            @Override
            public Object next() {
                if (at >= text.length()) {
                    throw new NoSuchElementException();
                }
                String character = Character.toString(text.codePointAt(at));
                at += character.length();
                return character;
            }
        };
    }

    private static Iterator<Object> numbers(Range range) {
        long length = range.length();
        return new Iterator<>() {
            private long at;

            @Override
            public boolean hasNext() {
                return at < length;
            }

            @Override
            public Object next() {
                if (at >= length) {
                    throw new NoSuchElementException();
                }
                return range.start() + range.step() * at++;
            }
        };
    }

    static List<Object> viewed(View view) {
        return switch (view.kind()) {
            case "keys" -> view.dict().keys();
            case "values" -> view.dict().values();
            default -> view.dict().items();
        };
    }

    /** {@code list(value)}. */
    static List<Object> list(Session session, Object value) {
        List<Object> list = new ArrayList<>();
        iterate(session, value).forEachRemaining(list::add);
        return list;
    }

    /** An argument that must be an integer that fits an {@code int}. */
    static int integer(Object value) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Num.isInteger(value)) {
            throw Fault.type(Repr.quote(typeName(value)) + " object cannot be interpreted as an integer");
        }
        BigInteger integer = Num.big(value);
        if (integer.bitLength() > Integer.SIZE - 1) {
            throw Fault.overflow("Python int too large to convert to C ssize_t");
        }
        return integer.intValue();
    }

    /** An argument that must be a string. */
    static String string(Object value, String what) {
        if (!isString(value)) {
            throw Fault.type(what + " must be str, not " + typeName(value));
        }
        return text(value);
    }
}
