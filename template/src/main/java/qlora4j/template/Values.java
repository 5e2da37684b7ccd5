package qlora4j.template;

import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The values a template works on. None is {@code null}; booleans, strings, integers ({@code Long}, or
 * {@code BigInteger} beyond it) and floats ({@code Double}) are Java's own; the others are the types below and {@link Dict}. There is no
 * way from any of them to another Java object.
 */
final class Values {

    /** Stands for an argument that was not given. */
    static final Object MISSING = new Object();

    private Values() {
    }

    /** A list or a tuple; {@code names} gives its elements attribute names, where it has any. */
    record Seq(List<Object> items, boolean tuple, List<String> names) {

        static Seq list(List<Object> items) {
            return new Seq(items, false, List.of());
        }

        static Seq tuple(List<Object> items) {
            return new Seq(items, true, List.of());
        }
    }

    /** {@code range(start, stop, step)}. */
    record Range(long start, long stop, long step) {

        long length() {
            return step > 0 ? start >= stop ? 0 : (stop - start - 1) / step + 1
                    : start <= stop ? 0 : (start - stop - 1) / -step + 1;
        }
    }

    /** Something that can be iterated over once. */
    record Generator(String typeName, Iterator<Object> items) {}

    /** {@code dict.keys()}, {@code dict.values()} or {@code dict.items()}. */
    record View(String kind, Dict dict) {}

    /** A text marked as safe HTML. */
    record Markup(String text) {}

    /** A slice of a subscript; each part is an integer or null. */
    record Slice(Object start, Object stop, Object step) {}

    /** A value that is not there, and why. */
    record Undefined(TemplateException.Kind kind, String message) {

        static Undefined named(String name) {
            return hint(Repr.quote(name) + " is undefined");
        }

        static Undefined hint(String message) {
            return new Undefined(TemplateException.Kind.UNDEFINED, message);
        }

        static Undefined unsafe(Object of, String attribute) {
            return new Undefined(TemplateException.Kind.SECURITY,
                    "access to attribute " + Repr.quote(attribute) + " of "
                            + Repr.quote(Py.typeName(of)) + " object is unsafe.");
        }

        Fault fault() {
            return new Fault(kind, message);
        }
    }

    /** What {@code namespace()} makes: the only value whose attributes a template can set. */
    record Namespace(Dict attributes) {}

    /** What can be called. */
    interface Callable {

        Object call(Interpreter in, Args args);

        /** The Python type it pretends to be. */
        default String typeName() {
            return "function";
        }
    }

    /** An object with named attributes, such as {@code loop}. */
    interface Attributes {

        /** The attribute's value, or {@link #MISSING}. */
        Object attribute(Interpreter in, String name);

        String typeName();

        /** How it prints. */
        String repr();
    }

    /** A function with a name for messages. */
    record Function(String name, String typeName, Body body) implements Callable {

        interface Body {
            Object call(Interpreter in, Args args);
        }

        static Function global(String name, Body body) {
            return new Function(name, "function", body);
        }

        static Function method(String name, Body body) {
            return new Function(name, "builtin_function_or_method", body);
        }

        @Override
        public Object call(Interpreter in, Args args) {
            return body.call(in, args);
        }
    }

    /** Attributes that every Python object has and that the sandbox therefore refuses. */
    static final Set<String> PRIVATE = Set.of("__class__", "__delattr__", "__dict__", "__dir__", "__doc__",
            "__eq__", "__format__", "__ge__", "__getattribute__", "__getstate__", "__gt__", "__hash__", "__init__",
            "__init_subclass__", "__le__", "__lt__", "__ne__", "__new__", "__reduce__", "__reduce_ex__", "__repr__",
            "__setattr__", "__sizeof__", "__str__", "__subclasshook__", "__len__", "__getitem__", "__contains__",
            "__iter__",
            "__add__", "__mul__", "__rmul__", "__mod__", "__rmod__", "__call__", "__globals__", "__code__", "__func__",
            "__self__", "__module__", "__name__", "__qualname__", "__setitem__", "__delitem__", "__reversed__");

    /** The methods by which Python changes a list or a dict: the immutable sandbox refuses them. */
    static final Map<String, Set<String>> MUTATING = Map.of(
            "list", Set.of("append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"),
            "dict", Set.of("clear", "pop", "popitem", "setdefault", "update"));
}
