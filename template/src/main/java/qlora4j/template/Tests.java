package qlora4j.template;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Undefined;

/** The tests behind {@code is}. */
final class Tests {

    private interface Test {
        boolean apply(Interpreter in, Object value, Args args);
    }

    private interface Plain {
        boolean apply(Object value);
    }

    private static final Map<String, Test> TESTS = new HashMap<>();

    static {
        plain("defined", v -> !(v instanceof Undefined));
        plain("undefined", v -> v instanceof Undefined);
        plain("none", v -> v == null);
        plain("boolean", v -> v instanceof Boolean);
        plain("true", v -> v instanceof Boolean b && b);
        plain("false", v -> v instanceof Boolean b && !b);
        plain("integer", v -> Num.isInteger(v) && !(v instanceof Boolean));
        plain("float", v -> v instanceof Double);
        plain("number", Num::isNumber);
        plain("string", Py::isString);
        plain("mapping", v -> v instanceof Dict);
        plain("iterable", Py::isIterable);
        plain("sequence",
                v -> Py.isString(v) || v instanceof Values.Seq || v instanceof Dict || v instanceof Values.Range
                        || v instanceof Undefined);
        plain("callable", v -> v instanceof Callable || v instanceof Undefined);
        plain("escaped", v -> v instanceof Markup);
        put("odd", (in, v, a) -> {
            bind("odd", a);
            return remainder(in, v, 2L, 1L);
        });
        put("even", (in, v, a) -> {
            bind("even", a);
            return remainder(in, v, 2L, 0L);
        });
        put("divisibleby", (in, v, a) -> remainder(in, v, other("divisibleby", "num", a), 0L));
        put("lower", (in, v, a) -> StringMethods.isLower(in.str(v)));
        put("upper", (in, v, a) -> StringMethods.isUpper(in.str(v)));
        put("filter", (in, v, a) -> Py.isString(v) && Filters.exists(Py.text(v)));
        put("test", (in, v, a) -> Py.isString(v) && exists(Py.text(v)));
        put("sameas", (in, v, a) -> same(v, other("sameas", "other", a)));
        put("in", (in, v, a) -> Ops.contains(in.session, other("in", "seq", a), v));
        comparison("==", "==", "eq", "equalto");
        comparison("!=", "!=", "ne");
        comparison(">", ">", "gt", "greaterthan");
        comparison(">=", ">=", "ge");
        comparison("<", "<", "lt", "lessthan");
        comparison("<=", "<=", "le");
    }

    private Tests() {
    }

    static boolean exists(String name) {
        return TESTS.containsKey(name);
    }

    static String unknown(String name) {
        return "No test named " + Repr.quote(name) + ".";
    }

    static boolean apply(Interpreter in, String name, Object value, Args args) {
        Test test = TESTS.get(name);
        if (test == null) {
            throw new Fault(Kind.SYNTAX, unknown(name));
        }
        in.session.tick(1);
        return test.apply(in, value, args);
    }

    private static void put(String name, Test test) {
        TESTS.put(name, test);
    }

    private static void plain(String name, Plain test) {
        put(name, (in, value, args) -> {
            bind(name, args);
            return test.apply(value);
        });
    }

    private static void comparison(String op, String... names) {
        for (String name : names) {
            put(name, (in, value, args) -> Ops.compare(in.session, op, value, other(name, "/b", args)));
        }
    }

    private static void bind(String name, Args args) {
        args.none(name);
    }

    /** The one argument of a test. */
    private static Object other(String name, String parameter, Args args) {
        return args.bind(name, 1, parameter)[0];
    }

    private static boolean remainder(Interpreter in, Object value, Object divisor, Object wanted) {
        return Ops.equal(in.session, Ops.binary(in, "%", value, divisor), wanted);
    }

    /** Identity, which for plain values is equality within a type. */
    private static boolean same(Object a, Object b) {
        boolean plain = List.of("str", "int", "float", "bool", "NoneType").contains(Py.typeName(a));
        return a == b || plain && a != null && a.equals(b);
    }
}
