package qlora4j.template;

import java.time.ZonedDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Function;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;

/** The functions that every template knows. */
final class Globals {

    /** The longest range that Jinja's sandbox makes. */
    private static final long MAX_RANGE = 100_000;

    private Globals() {
    }

    static void define(Scope scope) {
        scope.set("range", Function.global("range", (in, args) -> range(args)));
        scope.set("dict", Function.global("dict", (in, args) -> dict(in, "dict", args)));
        scope.set("namespace", Function.global("namespace", (in, args) -> new Namespace(dict(in, "namespace", args))));
        scope.set("cycler", Function.global("cycler", (in, args) -> new Cycler(args)));
        scope.set("joiner", Function.global("joiner", (in, args) -> new Joiner(args)));
        scope.set("raise_exception", Function.global("raise_exception", (in, args) -> {
            throw new Fault(Kind.RAISED, in.str(args.bind("raise_exception", 1, "message")[0]));
        }));
        scope.set("strftime_now", Function.global("strftime_now", (in, args) -> in.session.built(Strftime.format(
                Py.string(args.bind("strftime_now", 1, "format")[0], "strftime() argument 1"),
                ZonedDateTime.now(in.session.clock)))));
    }

    private static Object range(Args args) {
        Object[] bound = args.bind("range", 1, "/start", "/stop", "/step");
        long first = Py.integer(bound[0]);
        Range range = bound[1] == Values.MISSING ? new Range(0, first, 1)
                : new Range(first, Py.integer(bound[1]), bound[2] == Values.MISSING ? 1 : Py.integer(bound[2]));
        if (range.step() == 0) {
            throw Fault.value("range() arg 3 must not be zero");
        }
        if (range.length() > MAX_RANGE) {
            throw Fault.overflow("Range too big. The sandbox blocks ranges larger than MAX_RANGE (" + MAX_RANGE + ").");
        }
        return range;
    }

    private static Dict dict(Interpreter in, String function, Args args) {
        Object start = new Args(args.positional(), Map.of()).bind(function, 0, "/items")[0];
        Dict dict = start instanceof Dict given ? given.copy() : new Dict();
        if (start instanceof Namespace) {
            throw Fault.type("'Namespace' object is not iterable");
        }
        if (!(start instanceof Dict) && start != Values.MISSING) {
            int i = 0;
            for (Object pair : Py.list(in.session, start)) {
                if (!Py.isIterable(pair)) {
                    throw Fault.type("cannot convert dictionary update sequence element #" + i + " to a sequence");
                }
                List<Object> parts = Py.list(in.session, pair);
                if (parts.size() != 2) {
                    throw Fault.value("dictionary update sequence element #" + i + " has length " + parts.size()
                            + "; 2 is required");
                }
                dict.put(parts.get(0), parts.get(1));
                i++;
            }
        }
        args.named().forEach(dict::put);
        return dict;
    }

    /** {@code cycler(a, b, ...)}. */
    private static final class Cycler implements Attributes {

        private final List<Object> items;
        private int at;

        Cycler(Args args) {
            if (args.positional().isEmpty()) {
                throw Fault.runtime("at least one item has to be provided");
            }
            items = new ArrayList<>(args.positional());
        }

        @Override
        public Object attribute(Interpreter in, String name) {
            return switch (name) {
                case "current" -> items.get(at);
                case "items" -> Values.Seq.tuple(items);
                case "pos" -> (long) at;
                case "next" -> Function.method("next", (i, args) -> {
                    Object item = items.get(at);
                    at = (at + 1) % items.size();
                    return item;
                });
                case "reset" -> Function.method("reset", (i, args) -> {
                    at = 0;
                    return null;
                });
                default -> Values.MISSING;
            };
        }

        @Override
        public String typeName() {
            return "Cycler";
        }

        @Override
        public String repr() {
            return "<jinja2.utils.Cycler object>";
        }
    }

    /** {@code joiner(separator)}: nothing the first time it is called, the separator from then on. */
    private static final class Joiner implements Callable {

        private final Object separator;
        private boolean used;

        Joiner(Args args) {
            Object given = args.bind("joiner", 0, "sep")[0];
            separator = given == Values.MISSING ? ", " : given;
        }

        @Override
        public Object call(Interpreter in, Args args) {
            args.none("joiner");
            Object result = used ? separator : "";
            used = true;
            return result;
        }

        @Override
        public String typeName() {
            return "Joiner";
        }
    }
}
