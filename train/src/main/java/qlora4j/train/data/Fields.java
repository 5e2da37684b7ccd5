package qlora4j.train.data;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

/** Checked access to a row's columns; each error names the row and the column. */
record Fields(String where, Map<String, Object> map) {
    boolean has(String column) {
        return map.containsKey(column);
    }

    /** A string with something in it. */
    String filled(String column) {
        String value = text(column);
        if (value.isBlank()) {
            throw error(column, "is empty; fill it or remove the row");
        }
        return value;
    }

    String text(String column) {
        return text(where, column, map.get(column));
    }

    static String text(String where, String name, Object value) {
        if (!(value instanceof String text)) {
            throw new DataException(where + ": \"" + name + "\" must be a string, this is " + kind(value));
        }
        if (!StandardCharsets.UTF_8.newEncoder().canEncode(text)) {
            throw new DataException(where + ": \"" + name + "\" holds half a surrogate pair, which is no character");
        }
        return text;
    }

    /** A list or object, which may stand there as JSON text; null where it is absent, null or empty text. */
    Object json(String column) {
        Object value = map.get(column);
        if (!(value instanceof String text)) {
            return value;
        }
        return text.isBlank() ? null : JsonRows.value(where, column, text);
    }

    DataException error(String column, String problem) {
        return new DataException(where + ": \"" + column + "\" " + problem);
    }

    static String kind(Object value) {
        return switch (value) {
            case null -> "null";
            case String _ -> "a string";
            case Number _ -> "a number";
            case Boolean _ -> "a boolean";
            case List<?> _ -> "an array";
            case Map<?, ?> _ -> "an object";
            default -> "binary data";
        };
    }
}
