package qlora4j.template;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import qlora4j.template.Filters.Filter;
import qlora4j.template.Values.Generator;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** The filters on lists and other things that can be iterated over. */
final class SequenceFilters {

    private SequenceFilters() {
    }

    static void register(Map<String, Filter> filters) {
        filters.put("length", (in, v, a) -> Py.length(v));
        filters.put("count", (in, v, a) -> Py.length(v));
        filters.put("list", (in, v, a) -> {
            a.none("list");
            return Seq.list(Py.list(in.session, v));
        });
        filters.put("first", (in, v, a) -> {
            a.none("first");
            Iterator<Object> items = Py.iterate(in.session, v);
            return items.hasNext() ? items.next() : Undefined.hint("No first item, sequence was empty.");
        });
        filters.put("last", (in, v, a) -> {
            a.none("last");
            if (v instanceof Generator) {
                throw Fault.type(Repr.quote(Py.typeName(v)) + " object is not reversible");
            }
            List<Object> items = Py.list(in.session, v);
            return items.isEmpty() ? Undefined.hint("No last item, sequence was empty.") : items.getLast();
        });
        filters.put("reverse", SequenceFilters::reverse);
        filters.put("join", SequenceFilters::join);
        filters.put("sort", SequenceFilters::sort);
        filters.put("dictsort", SequenceFilters::dictSort);
        filters.put("items", (in, v, a) -> {
            a.none("items");
            if (!(v instanceof Undefined) && !(v instanceof Dict)) {
                throw Fault.type("Can only get item pairs from a mapping.");
            }
            return new Generator("generator",
                    v instanceof Dict dict ? dict.items().iterator() : Collections.emptyIterator());
        });
        filters.put("unique", SequenceFilters::unique);
        filters.put("min", (in, v, a) -> extreme(in, v, a.bind("min", 0, "case_sensitive", "attribute"), false));
        filters.put("max", (in, v, a) -> extreme(in, v, a.bind("max", 0, "case_sensitive", "attribute"), true));
        filters.put("sum", SequenceFilters::sum);
        filters.put("groupby", SequenceFilters::groupBy);
        filters.put("batch", SequenceFilters::batch);
        filters.put("slice", SequenceFilters::slice);
    }

    /** What reads a dotted attribute of an item; null reads the item itself. */
    static Function<Object, Object> attribute(Interpreter in, Object path, boolean ignoreCase, Object byDefault) {
        List<Object> parts = new ArrayList<>();
        if (Py.isString(path)) {
            for (String part : Py.text(path).split("\\.", -1)) {
                boolean number =
                        !part.isEmpty() && part.length() < 10 && part.chars().allMatch(c -> c >= '0' && c <= '9');
                parts.add(number ? (Object) Long.valueOf(part) : part);
            }
        } else if (path != null) {
            parts.add(path);
        }
        return item -> {
            Object value = item;
            for (Object part : parts) {
                value = Access.item(in, value, part);
                if (byDefault != null && value instanceof Undefined) {
                    value = byDefault;
                }
            }
            return ignoreCase ? lower(value) : value;
        };
    }

    private static Object lower(Object value) {
        return Py.isString(value) ? Unicode.lower(Py.text(value)) : value;
    }

    private static Object reverse(Interpreter in, Object value, Args args) {
        args.none("reverse");
        if (Py.isString(value)) {
            return Html.like(value, new StringBuilder(Py.text(value)).reverse().toString());
        }
        List<Object> items = Py.list(in.session, value);
        Collections.reverse(items);
        return value instanceof Generator ? Seq.list(items)
                : new Generator(value instanceof Seq seq && !seq.tuple() ? "list_reverseiterator" : "reversed",
                        items.iterator());
    }

    private static Object join(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("join", 0, "d", "attribute");
        Object path = Filters.or(bound[1], null);
        Function<Object, Object> part = attribute(in, path, false, null);
        StringBuilder out = new StringBuilder();
        String separator = in.str(Filters.or(bound[0], ""));
        Iterator<Object> items = Py.iterate(in.session, value);
        for (boolean first = true; items.hasNext(); first = false) {
            String text = in.str(part.apply(items.next()));
            in.session.checkLength((long) out.length() + separator.length() + text.length());
            out.append(first ? "" : separator).append(text);
        }
        return in.session.built(out.toString());
    }

    private static Object sort(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("sort", 0, "reverse", "case_sensitive", "attribute");
        Object path = Filters.or(bound[2], null);
        boolean ignoreCase = !Filters.flag(bound[1]);
        List<Function<Object, Object>> keys = new ArrayList<>();
        if (Py.isString(path)) {
            for (String one : Py.text(path).split(",", -1)) {
                keys.add(attribute(in, one, ignoreCase, null));
            }
        } else {
            keys.add(attribute(in, path, ignoreCase, null));
        }
        return Seq.list(Sorting.sorted(in.session, Py.list(in.session, value), item -> {
            List<Object> key = new ArrayList<>();
            keys.forEach(k -> key.add(k.apply(item)));
            return Seq.list(key);
        }, Filters.flag(bound[0])));
    }

    private static Object dictSort(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("dictsort", 0, "case_sensitive", "by", "reverse");
        String by = in.str(Filters.or(bound[1], "key"));
        if (!by.equals("key") && !by.equals("value")) {
            throw Fault.value("You can only sort by either \"key\" or \"value\"");
        }
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!(value instanceof Dict dict)) {
            throw Fault.type("dictsort needs a mapping, not " + Py.typeName(value));
        }
        boolean ignoreCase = !Filters.flag(bound[0]);
        int place = by.equals("key") ? 0 : 1;
        return Seq.list(Sorting.sorted(in.session, dict.items(), item -> {
            Object key = ((Seq) item).items().get(place);
            return ignoreCase ? lower(key) : key;
        }, Filters.flag(bound[2])));
    }

    private static Object unique(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("unique", 0, "case_sensitive", "attribute");
        Function<Object, Object> key = attribute(in, Filters.or(bound[1], null), !Filters.flag(bound[0]), null);
        Iterator<Object> items = Py.iterate(in.session, value);
        Dict seen = new Dict();
        return new Generator("generator", new Lookahead(() -> {
            while (items.hasNext()) {
                Object item = items.next();
                Object k = key.apply(item);
                if (!seen.contains(k)) {
                    seen.put(k, true);
                    return item;
                }
            }
            return Values.MISSING;
        }));
    }

    private static Object extreme(Interpreter in, Object value, Object[] bound, boolean largest) {
        Function<Object, Object> key = attribute(in, Filters.or(bound[1], null), !Filters.flag(bound[0]), null);
        Iterator<Object> items = Py.iterate(in.session, value);
        if (!items.hasNext()) {
            return Undefined.hint("No aggregated item, sequence was empty.");
        }
        Object best = items.next();
        Object bestKey = key.apply(best);
        while (items.hasNext()) {
            Object item = items.next();
            Object k = key.apply(item);
            if (largest ? Ops.compare(in.session, ">", k, bestKey) : Ops.less(in.session, k, bestKey)) {
                best = item;
                bestKey = k;
            }
        }
        return best;
    }

    private static Object sum(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("sum", 0, "attribute", "start");
        Function<Object, Object> part = attribute(in, Filters.or(bound[0], null), false, null);
        Object total = Filters.or(bound[1], 0L);
        if (Py.isString(total)) {
            throw Fault.type("sum() can't sum strings [use ''.join(seq) instead]");
        }
        Iterator<Object> items = Py.iterate(in.session, value);
        while (items.hasNext()) {
            total = Ops.binary(in, "+", total, part.apply(items.next()));
        }
        return total;
    }

    private static Object groupBy(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("groupby", 1, "attribute", "default", "case_sensitive");
        Object byDefault = Filters.or(bound[1], null);
        Function<Object, Object> shown = attribute(in, bound[0], false, byDefault);
        Function<Object, Object> key = attribute(in, bound[0], !Filters.flag(bound[2]), byDefault);
        List<Object> groups = new ArrayList<>();
        List<Object> group = new ArrayList<>();
        Object current = null;
        for (Object item : Sorting.sorted(in.session, Py.list(in.session, value), key, false)) {
            Object k = key.apply(item);
            if (group.isEmpty() || !Ops.equal(in.session, k, current)) {
                group = new ArrayList<>();
                List<Object> pair = new ArrayList<>();
                pair.add(shown.apply(item));
                pair.add(Seq.list(group));
                groups.add(new Seq(pair, true, List.of("grouper", "list")));
                current = k;
            }
            group.add(item);
        }
        return Seq.list(groups);
    }

    private static Object batch(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("batch", 1, "linecount", "fill_with");
        int count = Py.integer(bound[0]);
        Object fill = Filters.or(bound[1], null);
        Iterator<Object> items = Py.iterate(in.session, value);
        return new Generator("generator", new Lookahead(() -> {
            if (!items.hasNext()) {
                return Values.MISSING;
            }
            List<Object> row = new ArrayList<>();
            do {
                row.add(items.next());
            } while (row.size() != count && items.hasNext());
            while (fill != null && row.size() < count) {
                in.session.tick(1);
                row.add(fill);
            }
            return Seq.list(row);
        }));
    }

    private static Object slice(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("slice", 1, "slices", "fill_with");
        int slices = Py.integer(bound[0]);
        Object fill = Filters.or(bound[1], null);
        List<Object> items = Py.list(in.session, value);
        if (slices == 0) {
            throw new Fault(TemplateException.Kind.ZERO_DIVISION, "integer division or modulo by zero");
        }
        List<Object> result = new ArrayList<>();
        int at = 0;
        for (int i = 0; i < slices; i++) {
            in.session.tick(1);
            boolean extra = i < items.size() % slices;
            int end = at + items.size() / slices + (extra ? 1 : 0);
            List<Object> part = new ArrayList<>(items.subList(at, end));
            if (fill != null && !extra) {
                part.add(fill);
            }
            result.add(Seq.list(part));
            at = end;
        }
        return new Generator("generator", result.iterator());
    }
}
