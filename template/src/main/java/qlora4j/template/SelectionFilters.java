package qlora4j.template;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.function.Predicate;
import qlora4j.template.Filters.Filter;
import qlora4j.template.Values.Generator;
import qlora4j.template.Values.Undefined;

/** The filters that take another filter, a test or an attribute: {@code map, select, reject, attr} and their like. */
final class SelectionFilters {

    private SelectionFilters() {
    }

    static void register(Map<String, Filter> filters) {
        filters.put("map", SelectionFilters::map);
        filters.put("select", (in, v, a) -> select(in, v, a, false, true));
        filters.put("reject", (in, v, a) -> select(in, v, a, false, false));
        filters.put("selectattr", (in, v, a) -> select(in, v, a, true, true));
        filters.put("rejectattr", (in, v, a) -> select(in, v, a, true, false));
        filters.put("attr", (in, v, a) -> {
            Object name = a.bind("attr", 1, "name")[0];
            Object value = Access.member(in, v, Py.string(name, "attribute name"));
            return value != Values.MISSING ? value
                    : Undefined.hint(Repr.quote(Py.typeName(v) + " object")
                            + " has no attribute " + Repr.quote(Py.text(name)));
        });
    }

    /** A generator whose function is looked up when its first item is asked for, as in Python. */
    private static Generator generator(Interpreter in, Object value, Function<Iterator<Object>, Object> next) {
        List<Iterator<Object>> items = new ArrayList<>();
        return new Generator("generator", new Lookahead(() -> {
            if (!Py.truth(value)) {
                return Values.MISSING;
            }
            if (items.isEmpty()) {
                items.add(Py.iterate(in.session, value));
            }
            return next.apply(items.getFirst());
        }));
    }

    private static Object map(Interpreter in, Object value, Args args) {
        return generator(in, value, items -> {
            Function<Object, Object> function = mapper(in, args);
            return items.hasNext() ? function.apply(items.next()) : Values.MISSING;
        });
    }

    private static Function<Object, Object> mapper(Interpreter in, Args args) {
        if (args.positional().isEmpty() && args.named().containsKey("attribute")) {
            Map<String, Object> rest = new LinkedHashMap<>(args.named());
            Object path = rest.remove("attribute");
            Object byDefault = rest.remove("default");
            if (!rest.isEmpty()) {
                throw Fault.type("Unexpected keyword argument " + Repr.quote(rest.keySet().iterator().next()));
            }
            return SequenceFilters.attribute(in, path, false, byDefault);
        }
        if (args.positional().isEmpty()) {
            throw Fault.type("map requires a filter argument");
        }
        String name = in.str(args.positional().getFirst());
        return item -> Filters.apply(in, name, item, args.from(1));
    }

    private static Object select(Interpreter in, Object value, Args args, boolean attribute, boolean keep) {
        return generator(in, value, items -> {
            Predicate<Object> wanted = predicate(in, args, attribute);
            while (items.hasNext()) {
                Object item = items.next();
                if (wanted.test(item) == keep) {
                    return item;
                }
            }
            return Values.MISSING;
        });
    }

    private static Predicate<Object> predicate(Interpreter in, Args args, boolean attribute) {
        if (attribute && args.positional().isEmpty()) {
            throw Fault.type("Missing parameter for attribute name");
        }
        int used = attribute ? 1 : 0;
        Function<Object, Object> part =
                SequenceFilters.attribute(in, attribute ? args.positional().getFirst() : null, false, null);
        if (args.positional().size() <= used) {
            return item -> Py.truth(part.apply(item));
        }
        String name = in.str(args.positional().get(used));
        return item -> Tests.apply(in, name, part.apply(item), args.from(used + 1));
    }
}
