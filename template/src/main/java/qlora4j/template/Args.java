package qlora4j.template;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Values.Seq;

/**
 * The arguments of a call.
 *
 * @param positional those without a name
 * @param named      those with one, in the order given
 */
record Args(List<Object> positional, Map<String, Object> named) {

    static final Args NONE = new Args(List.of(), Map.of());

    static Args of(Object... values) {
        return new Args(Arrays.asList(values), Map.of());
    }

    /** A tuple of these values. */
    static Seq tuple(Object... values) {
        return Seq.tuple(Arrays.asList(values));
    }

    /** Without the first {@code count} positional arguments. */
    Args from(int count) {
        return new Args(positional.subList(count, positional.size()), named);
    }

    /**
     * Matches the arguments with parameters.
     *
     * @param function the name for messages
     * @param required how many of the parameters must be given
     * @param names    the parameters; one that begins with {@code /} cannot be given by name
     * @return a value per parameter, {@link Values#MISSING} where none was given
     */
    Object[] bind(String function, int required, String... names) {
        if (positional.size() > names.length) {
            throw Fault.type(function + "() takes " + (names.length == 0 ? "no arguments"
                    : (required == names.length ? "exactly " : "at most ") + names.length + " argument"
                            + (names.length == 1 ? "" : "s"))
                    + " (" + positional.size() + " given)");
        }
        Object[] bound = new Object[names.length];
        Arrays.fill(bound, Values.MISSING);
        for (int i = 0; i < positional.size(); i++) {
            bound[i] = positional.get(i);
        }
        List<String> parameters = new ArrayList<>(Arrays.asList(names));
        for (Map.Entry<String, Object> entry : named.entrySet()) {
            int i = parameters.indexOf(entry.getKey());
            if (i < 0) {
                throw Fault.type(function + "() got an unexpected keyword argument " + Repr.quote(entry.getKey()));
            }
            if (bound[i] != Values.MISSING) {
                throw Fault.type(function + "() got multiple values for argument " + Repr.quote(entry.getKey()));
            }
            bound[i] = entry.getValue();
        }
        for (int i = 0; i < required; i++) {
            if (bound[i] == Values.MISSING) {
                throw Fault.type(function + "() missing required argument " + Repr.quote(names[i].replace("/", "")));
            }
        }
        return bound;
    }

    /** Fails if there is any argument. */
    void none(String function) {
        bind(function, 0);
    }

    /** With one more named argument. */
    Args with(String name, Object value) {
        Map<String, Object> more = new LinkedHashMap<>(named);
        more.put(name, value);
        return new Args(positional, more);
    }
}
