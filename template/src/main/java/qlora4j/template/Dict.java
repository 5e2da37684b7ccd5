package qlora4j.template;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** A Python dict: insertion order, and keys that compare as in Python ({@code 1 == 1.0 == True}). */
final class Dict {

    /** A key as it was first given, and its value. */
    record Entry(Object key, Object value) {}

    /** Tuples within tuples as keys: the bound keeps the cost of shared parts, which doubles per level, small. */
    private static final int MAX_KEY_DEPTH = 12;
    private static final Object UNDEFINED = new Object();

    private final Map<Object, Entry> entries = new LinkedHashMap<>();

    /** Sets a value; the key must be hashable. */
    void put(Object key, Object value) {
        Object hashed = hashable(key, 0);
        Entry old = entries.get(hashed);
        entries.put(hashed, new Entry(old == null ? key : old.key(), value));
    }

    /** The value of a key, or {@link Values#MISSING}. */
    Object get(Object key) {
        Entry entry = entries.get(hashable(key, 0));
        return entry == null ? Values.MISSING : entry.value();
    }

    boolean contains(Object key) {
        return entries.containsKey(hashable(key, 0));
    }

    int size() {
        return entries.size();
    }

    Collection<Entry> entries() {
        return entries.values();
    }

    List<Object> keys() {
        List<Object> keys = new ArrayList<>(size());
        entries.values().forEach(e -> keys.add(e.key()));
        return keys;
    }

    List<Object> values() {
        List<Object> values = new ArrayList<>(size());
        entries.values().forEach(e -> values.add(e.value()));
        return values;
    }

    /** The pairs as tuples. */
    List<Object> items() {
        List<Object> items = new ArrayList<>(size());
        entries.values().forEach(e -> items.add(Args.tuple(e.key(), e.value())));
        return items;
    }

    Dict copy() {
        Dict copy = new Dict();
        copy.entries.putAll(entries);
        return copy;
    }

    /** A Java object whose {@code equals} is Python's equality; fails for values that Python cannot hash. */
    private static Object hashable(Object key, int depth) {
        return switch (key) {
            case null -> Values.MISSING;
            case String text -> text;
            case Markup markup -> markup.text();
            case Boolean flag -> flag ? 1L : 0L;
            case Long integer -> integer;
            case BigInteger integer -> integer;
            case Double real -> real == Math.rint(real) && !Double.isInfinite(real)
                    ? Num.norm(new BigDecimal(real).toBigInteger())
                    : real;
            case Seq seq when seq.tuple() -> {
                if (depth > MAX_KEY_DEPTH) {
                    throw Fault.limit("a dict key nests tuples deeper than " + MAX_KEY_DEPTH + " levels");
                }
                List<Object> parts = new ArrayList<>();
                seq.items().forEach(item -> parts.add(hashable(item, depth + 1)));
                yield parts;
            }
            case Undefined undefined -> UNDEFINED;
            case Range range -> range;
            case Values.Callable callable -> new Identity(callable);
            case Namespace namespace -> new Identity(namespace);
            default -> throw Fault.type("unhashable type: " + Repr.quote(Py.typeName(key)));
        };
    }

    private record Identity(Object object) {

        @Override
        public boolean equals(Object other) {
            return other instanceof Identity identity && identity.object == object;
        }

        @Override
        public int hashCode() {
            return System.identityHashCode(object);
        }
    }
}
