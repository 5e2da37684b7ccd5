package qlora4j.template;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Function;

/** Python's stable sort, by {@code <} alone (which need not be a total order). */
final class Sorting {

    private Sorting() {
    }

    /** The items in ascending order of their keys; equal ones keep their order, reversed or not. */
    static <T> List<T> sorted(Session session, List<T> items, Function<T, Object> key, boolean reverse) {
        List<Keyed<T>> keyed = new ArrayList<>(items.size());
        for (T item : items) {
            keyed.add(new Keyed<>(item, key.apply(item)));
        }
        if (reverse) {
            Collections.reverse(keyed);
        }
        keyed = merge(session, keyed);
        if (reverse) {
            Collections.reverse(keyed);
        }
        List<T> result = new ArrayList<>(items.size());
        keyed.forEach(k -> result.add(k.item()));
        return result;
    }

    private record Keyed<T>(T item, Object key) {}

    private static <T> List<Keyed<T>> merge(Session session, List<Keyed<T>> items) {
        if (items.size() < 2) {
            return items;
        }
        int half = items.size() / 2;
        List<Keyed<T>> a = merge(session, items.subList(0, half));
        List<Keyed<T>> b = merge(session, items.subList(half, items.size()));
        List<Keyed<T>> merged = new ArrayList<>(items.size());
        int i = 0;
        int j = 0;
        while (i < a.size() && j < b.size()) {
            merged.add(Ops.less(session, b.get(j).key(), a.get(i).key()) ? b.get(j++) : a.get(i++));
        }
        merged.addAll(a.subList(i, a.size()));
        merged.addAll(b.subList(j, b.size()));
        return merged;
    }
}
