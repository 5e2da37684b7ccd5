package qlora4j.template;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Slice;
import qlora4j.template.Values.Undefined;

/** {@code value.name} and {@code value[index]} as Jinja's sandbox resolves them: methods before items, or after. */
final class Access {

    private Access() {
    }

    /** {@code value.name}. */
    static Object attribute(Interpreter in, Object value, String name) {
        Object attribute = member(in, value, name);
        if (attribute == Values.MISSING) {
            attribute = itemOrMissing(in, value, name);
        }
        return attribute == Values.MISSING ? undefined(value, name) : attribute;
    }

    /** {@code value[index]}. */
    static Object item(Interpreter in, Object value, Object index) {
        Object item = itemOrMissing(in, value, index);
        if (item == Values.MISSING && Py.isString(index)) {
            item = member(in, value, Py.text(index));
        }
        return item == Values.MISSING ? undefined(value, index) : item;
    }

    private static Undefined undefined(Object value, Object name) {
        String type = switch (value) {
            case null -> "None";
            case Namespace n -> "jinja2.utils.Namespace object";
            case Attributes a -> "jinja2.runtime." + a.typeName() + " object";
            default -> Py.typeName(value) + " object";
        };
        return Undefined.hint(Py.isString(name) ? Repr.quote(type) + " has no attribute " + Repr.quote(Py.text(name))
                : type + " has no element "
                        + (Num.isNumber(name) || name == null ? String.valueOf(name) : Py.typeName(name)));
    }

    /** The attribute of a value, an undefined one where the sandbox refuses it, or MISSING. */
    static Object member(Interpreter in, Object value, String name) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (value instanceof Namespace namespace) {
            return namespace.attributes().get(name);
        }
        if (Values.PRIVATE.contains(name)) {
            return Undefined.unsafe(value, name);
        }
        if (value instanceof Attributes attributes) {
            return attributes.attribute(in, name);
        }
        if (Values.MUTATING.getOrDefault(Py.typeName(value), Set.of()).contains(name)) {
            return Undefined.unsafe(value, name);
        }
        if (value instanceof Seq seq && seq.names().contains(name)) {
            return seq.items().get(seq.names().indexOf(name));
        }
        Object method = Methods.of(value, name);
        return method == null ? Values.MISSING : method;
    }

    private static Object itemOrMissing(Interpreter in, Object value, Object index) {
        if (index instanceof Slice slice) {
            return slice(in.session, value, slice);
        }
        return switch (value) {
            case Undefined undefined -> throw undefined.fault();
            case Dict dict -> {
                try {
                    yield dict.get(index);
                } catch (Fault unhashable) {
                    if (unhashable.kind != TemplateException.Kind.TYPE) {
                        throw unhashable;
                    }
                    yield Values.MISSING;
                }
            }
            case Seq seq -> {
                long i = position(index, seq.items().size());
                yield i < 0 ? Values.MISSING : seq.items().get((int) i);
            }
            case String text -> {
                long i = position(index, Unicode.length(text));
                yield i < 0 ? Values.MISSING : Unicode.at(text, i);
            }
            case Markup markup -> {
                long i = position(index, Unicode.length(markup.text()));
                yield i < 0 ? Values.MISSING : new Markup(Unicode.at(markup.text(), i));
            }
            case Range range -> {
                long i = position(index, range.length());
                yield i < 0 ? Values.MISSING : (Object) (range.start() + range.step() * i);
            }
            case null, default -> Values.MISSING;
        };
    }

    /** The place an index means in a sequence of this length, or -1. */
    private static long position(Object index, long length) {
        if (!Num.isInteger(index) || Num.big(index).bitLength() >= Long.SIZE) {
            return -1;
        }
        long i = Num.big(index).longValue();
        long place = i < 0 ? i + length : i;
        return place >= 0 && place < length ? place : -1;
    }

    private static Object slice(Session session, Object value, Slice slice) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (value instanceof Dict) {
            throw Fault.type("unhashable type: 'slice'");
        }
        if (!Py.isString(value) && !(value instanceof Seq) && !(value instanceof Range)) {
            throw Fault.type(Repr.quote(Py.typeName(value)) + " object is not subscriptable");
        }
        if (!isIndex(slice.start()) || !isIndex(slice.stop()) || !isIndex(slice.step())) {
            throw Fault.type("slice indices must be integers or None or have an __index__ method");
        }
        long length = Py.length(value);
        long step = slice.step() == null ? 1 : clamp(slice.step());
        if (step == 0) {
            throw Fault.value("slice step cannot be zero");
        }
        long lowest = step < 0 ? -1 : 0;
        long highest = step < 0 ? length - 1 : length;
        long start = bound(slice.start(), step < 0 ? highest : lowest, length, lowest, highest);
        long stop = bound(slice.stop(), step < 0 ? lowest : highest, length, lowest, highest);
        Range chosen = new Range(start, stop, step);
        return switch (value) {
            case Range range -> new Range(range.start() + start * range.step(), range.start() + stop * range.step(),
                    range.step() * step);
            case Seq seq -> {
                session.tick(chosen.length());
                List<Object> items = new ArrayList<>();
                for (long i = 0; i < chosen.length(); i++) {
                    items.add(seq.items().get((int) (start + step * i)));
                }
                yield new Seq(items, seq.tuple(), List.of());
            }
            default -> Html.like(value, session.built(sliced(Py.text(value), chosen)));
        };
    }

    private static String sliced(String text, Range chosen) {
        if (chosen.length() == 0) {
            return "";
        }
        if (chosen.step() == 1) {
            return Unicode.substring(text, chosen.start(), chosen.stop());
        }
        int[] points = text.codePoints().toArray();
        StringBuilder out = new StringBuilder();
        for (long i = 0; i < chosen.length(); i++) {
            out.appendCodePoint(points[(int) (chosen.start() + chosen.step() * i)]);
        }
        return out.toString();
    }

    private static boolean isIndex(Object value) {
        return value == null || Num.isInteger(value);
    }

    private static long clamp(Object integer) {
        BigInteger value = Num.big(integer);
        return value.bitLength() < Integer.SIZE ? value.longValue() : value.signum() * (1L << Integer.SIZE);
    }

    private static long bound(Object value, long absent, long length, long lowest, long highest) {
        if (value == null) {
            return absent;
        }
        long i = clamp(value);
        return Math.clamp(i < 0 ? i + length : i, lowest, Math.max(lowest, highest));
    }
}
