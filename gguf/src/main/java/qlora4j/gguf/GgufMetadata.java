package qlora4j.gguf;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import qlora4j.gguf.GgufException.Kind;

/**
 * The metadata of a file, read by key and type; an error names the file and the key. A value of another type than asked
 * for is an error, but any type of whole number serves as one, and any number as a number.
 */
public final class GgufMetadata {
    private final Path file;
    private final Map<String, Object> values;

    GgufMetadata(Path file, Map<String, Object> values) {
        this.file = file;
        this.values = values;
    }

    /** All keys, in the order of the file. */
    public Set<String> keys() {
        return values.keySet();
    }

    /** Whether there is such an entry. */
    public boolean has(String key) {
        return values.containsKey(key);
    }

    private Object required(String key) throws GgufException {
        Object value = values.get(key);
        if (value == null) {
            throw new GgufException(Kind.MISSING_KEY, file, "the metadata lack " + key);
        }
        return value;
    }

    GgufException wrong(String key, String expected) {
        return new GgufException(Kind.BAD_VALUE, file, "metadata " + key + " is " + shown(key) + "; " + expected
                + " is expected");
    }

    private <T> T as(String key, Class<T> type, String expected) throws GgufException {
        Object value = required(key);
        if (!type.isInstance(value)) {
            throw wrong(key, expected);
        }
        return type.cast(value);
    }

    /** The text of a key. */
    public String text(String key) throws GgufException {
        return as(key, String.class, "a text");
    }

    /** The text of a key, or {@code absent}. */
    public String text(String key, String absent) throws GgufException {
        return has(key) ? text(key) : absent;
    }

    /** The whole number of a key, from 0 to 2^31 - 1: every size and id of a model. */
    public int integer(String key) throws GgufException {
        Object value = required(key);
        if (!(value instanceof Long n) || n < 0 || n > Integer.MAX_VALUE) {
            throw wrong(key, "a whole number from 0 to 2^31 - 1");
        }
        return n.intValue();
    }

    /** The whole number of a key, or {@code absent}. */
    public int integer(String key, int absent) throws GgufException {
        return has(key) ? integer(key) : absent;
    }

    /**
     * A token's id; empty where the key is absent, or holds the 2^32 - 1 that some converters write for none.
     */
    public OptionalInt tokenId(String key) throws GgufException {
        boolean none = !has(key) || values.get(key) instanceof Long n && (n == 0xffffffffL || n == -1);
        return none ? OptionalInt.empty() : OptionalInt.of(integer(key));
    }

    /**
     * The number of a key. A float32 is read as the shortest decimal that rounds to it, which is what a configuration
     * said before it was narrowed: {@code 1e-5}, not 9.99999974737875e-6.
     */
    public double number(String key) throws GgufException {
        Number value = as(key, Number.class, "a number");
        return value instanceof Float f ? Double.parseDouble(Float.toString(f)) : value.doubleValue();
    }

    /** The number of a key, or {@code absent}. */
    public double number(String key, double absent) throws GgufException {
        return has(key) ? number(key) : absent;
    }

    /** The truth of a key, or {@code absent}. */
    public boolean flag(String key, boolean absent) throws GgufException {
        return has(key) ? as(key, Boolean.class, "true or false") : absent;
    }

    /** The texts of a key. */
    public List<String> texts(String key) throws GgufException {
        if (!(required(key) instanceof List<?> list)) {
            throw wrong(key, "an array of texts");
        }
        return list.stream().map(String.class::cast).toList();
    }

    /** The whole numbers of a key; booleans are 0 and 1. */
    public long[] integers(String key) throws GgufException {
        return as(key, long[].class, "an array of whole numbers").clone();
    }

    /** The numbers of a key. */
    public double[] numbers(String key) throws GgufException {
        return as(key, double[].class, "an array of numbers").clone();
    }

    /** A value for people: long texts and arrays cut. */
    public String shown(String key) {
        return switch (values.get(key)) {
            case null -> "absent";
            case String s -> GgufException.quote(s);
            case List<?> list -> list.size() + " texts";
            case long[] n -> n.length <= 8 ? Arrays.toString(n) : n.length + " whole numbers";
            case double[] n -> n.length <= 8 ? Arrays.toString(n) : n.length + " numbers";
            case Object o -> o.toString();
        };
    }
}
