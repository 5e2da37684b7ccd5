package qlora4j.template;

import java.util.HashMap;
import java.util.Map;

/** The names known at a place of the template: its own, then those around it. */
final class Scope {

    private final Scope outer;
    private final Map<String, Object> names = new HashMap<>();

    Scope(Scope outer) {
        this.outer = outer;
    }

    void set(String name, Object value) {
        names.put(name, value);
    }

    /** The value of a name, or {@link Values#MISSING}. */
    Object get(String name) {
        for (Scope scope = this; scope != null; scope = scope.outer) {
            Object value = scope.names.get(name);
            if (value != null || scope.names.containsKey(name)) {
                return value;
            }
        }
        return Values.MISSING;
    }

    /** The outermost scope that the template itself writes to. */
    Scope top() {
        Scope scope = this;
        while (scope.outer.outer != null) {
            scope = scope.outer;
        }
        return scope;
    }
}
