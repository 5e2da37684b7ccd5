package qlora4j.template;

import java.util.HashMap;
import java.util.Map;
import qlora4j.template.TemplateException.Kind;

/** The filters by name. Jinja's {@code pprint, random, urlize, wordwrap} and {@code lipsum()} are not among them. */
final class Filters {

    /** A filter. */
    interface Filter {
        Object apply(Interpreter in, Object value, Args args);
    }

    private static final Map<String, Filter> FILTERS = new HashMap<>();

    static {
        TextFilters.register(FILTERS);
        NumberFilters.register(FILTERS);
        SequenceFilters.register(FILTERS);
        SelectionFilters.register(FILTERS);
        FILTERS.put("tojson", Json::filter);
    }

    private Filters() {
    }

    static boolean exists(String name) {
        return FILTERS.containsKey(name);
    }

    static String unknown(String name) {
        return "No filter named " + Repr.quote(name) + ".";
    }

    static Object apply(Interpreter in, String name, Object value, Args args) {
        Filter filter = FILTERS.get(name);
        if (filter == null) {
            throw new Fault(Kind.SYNTAX, unknown(name));
        }
        in.session.tick(1);
        return filter.apply(in, value, args);
    }

    /** Whether an optional argument was given and is true. */
    static boolean flag(Object argument) {
        return argument != Values.MISSING && Py.truth(argument);
    }

    /** An optional argument or what it is by default. */
    static Object or(Object argument, Object byDefault) {
        return argument == Values.MISSING ? byDefault : argument;
    }
}
