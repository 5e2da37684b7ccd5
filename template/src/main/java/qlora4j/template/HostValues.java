package qlora4j.template;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Values.Seq;

/** Copies a context into template values: nothing of the host but plain data reaches the template. */
final class HostValues {

    /** How deeply a context may nest; an object that contains itself nests for ever. */
    private static final int MAX_NESTING = 200;

    private HostValues() {
    }

    /** The template value of a Java value; {@code path} names it in errors. */
    static Object convert(Object value, String path, int depth) {
        if (depth > MAX_NESTING) {
            throw new TemplateException(Kind.CONTEXT,
                    "the context nests deeper than " + MAX_NESTING + " levels at " + path,
                    0, null);
        }
        return switch (value) {
            case null -> null;
            case String text -> text;
            case Boolean flag -> flag;
            case Long integer -> integer;
            case Integer integer -> integer.longValue();
            case Short integer -> integer.longValue();
            case Byte integer -> integer.longValue();
            case BigInteger integer -> Num.norm(integer);
            case Double real -> real;
            case Float real -> real.doubleValue();
            case Map<?, ?> map -> {
                Dict dict = new Dict();
                for (Map.Entry<?, ?> entry : map.entrySet()) {
                    String inner = path + "." + entry.getKey();
                    Object key = convert(entry.getKey(), inner, depth + 1);
                    if (key instanceof Dict || key instanceof Seq) {
                        throw new TemplateException(Kind.CONTEXT,
                                "a map of the context has a list or map as a key at " + path,
                                0, null);
                    }
                    dict.put(key, convert(entry.getValue(), inner, depth + 1));
                }
                yield dict;
            }
            case List<?> list -> {
                List<Object> items = new ArrayList<>(list.size());
                for (Object item : list) {
                    items.add(convert(item, path + "[" + items.size() + "]", depth + 1));
                }
                yield Seq.list(items);
            }
            default ->
                throw new TemplateException(Kind.CONTEXT, "the context holds a " + value.getClass().getName() + " at "
                        + path + ": give strings, numbers, booleans, null, lists and maps of them", 0, null);
        };
    }
}
