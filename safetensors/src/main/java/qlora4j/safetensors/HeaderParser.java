package qlora4j.safetensors;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.safetensors.Header.Entry;
import qlora4j.safetensors.SafetensorsException.Kind;
import qlora4j.tensor.DType;

/**
 * Reads a header's JSON token by token. The first token that the format does not allow ends it, so that neither depth
 * nor size of foreign values matters.
 */
final class HeaderParser {
    private static final int SHOWN_DIMENSIONS = 16;

    private final Path file;
    private final Map<String, Entry> entries = new LinkedHashMap<>();
    private Map<String, String> metadata;

    private HeaderParser(Path file) {
        this.file = file;
    }

    /**
     * Parses and checks a header.
     *
     * @param json the header's bytes
     * @param available bytes of the file after the header
     */
    static Header parse(Path file, byte[] json, long available) throws SafetensorsException {
        HeaderParser parser = new HeaderParser(file);
        try (JsonParser p = Json.parser(json)) {
            parser.object(p);
        } catch (SafetensorsException e) {
            throw e;
        } catch (CharacterCodingException e) {
            throw new SafetensorsException(Kind.HEADER_NOT_UTF8, file, "the header is not valid UTF-8", e);
        } catch (JsonProcessingException e) {
            throw new SafetensorsException(Kind.HEADER_NOT_JSON, file,
                    "the header is not JSON: " + e.getOriginalMessage() + at(e), e);
        } catch (IOException e) {
            throw new SafetensorsException(Kind.HEADER_NOT_JSON, file, "the header cannot be read: " + e, e);
        }
        Map<String, TensorInfo> tensors = new LinkedHashMap<>();
        long start = Header.LENGTH_BYTES + json.length;
        for (TensorInfo t : Header.check(file, List.copyOf(parser.entries.values()), start, available)) {
            tensors.put(t.name(), t);
        }
        Map<String, String> metadata = parser.metadata == null ? Map.of() : parser.metadata;
        return new Header(Collections.unmodifiableMap(tensors), Collections.unmodifiableMap(metadata));
    }

    private static String at(JsonProcessingException e) {
        return e.getLocation() == null ? "" : " at character " + e.getLocation().getCharOffset();
    }

    private void object(JsonParser p) throws IOException {
        JsonToken first = p.nextToken();
        if (first == null) {
            throw error(Kind.HEADER_NOT_JSON, null, "the header is empty; the smallest is {}");
        }
        if (first != JsonToken.START_OBJECT) {
            throw error(Kind.HEADER_NOT_OBJECT, null, "the header is " + what(first) + ", not an object");
        }
        while (p.nextToken() == JsonToken.FIELD_NAME) {
            String name = unicode(p.currentName());
            p.nextToken();
            if (name.equals(Header.METADATA)) {
                metadata(p);
            } else if (entries.containsKey(name)) {
                throw error(Kind.DUPLICATE_KEY, name, "stands twice in the header");
            } else {
                entries.put(name, entry(p, name));
            }
        }
        if (p.nextToken() != null) {
            throw error(Kind.HEADER_NOT_JSON, null, "the header goes on after its object's end");
        }
    }

    private void metadata(JsonParser p) throws IOException {
        if (metadata != null) {
            throw error(Kind.DUPLICATE_KEY, null, Header.METADATA + " stands twice in the header");
        }
        if (p.currentToken() != JsonToken.START_OBJECT) {
            throw error(Kind.METADATA_NOT_OBJECT, null,
                    Header.METADATA + " is " + what(p.currentToken()) + ", not an object");
        }
        metadata = new LinkedHashMap<>();
        while (p.nextToken() == JsonToken.FIELD_NAME) {
            String key = unicode(p.currentName());
            if (p.nextToken() != JsonToken.VALUE_STRING) {
                throw error(Kind.METADATA_NOT_STRING, null, Header.METADATA + "'s " + SafetensorsException.quote(key)
                        + " is " + what(p.currentToken()) + ", not a string");
            }
            if (metadata.put(key, unicode(p.getText())) != null) {
                throw error(Kind.DUPLICATE_KEY, null,
                        Header.METADATA + " has " + SafetensorsException.quote(key) + " twice");
            }
        }
    }

    private Entry entry(JsonParser p, String name) throws IOException {
        if (p.currentToken() != JsonToken.START_OBJECT) {
            throw error(Kind.ENTRY_NOT_OBJECT, name, "its entry is " + what(p.currentToken()) + ", not an object");
        }
        DType dtype = null;
        long[] shape = null;
        long[] offsets = null;
        while (p.nextToken() == JsonToken.FIELD_NAME) {
            String field = p.currentName();
            p.nextToken();
            boolean twice;
            switch (field) {
                case Header.DTYPE -> {
                    twice = dtype != null;
                    dtype = dtype(p, name);
                }
                case Header.SHAPE -> {
                    twice = shape != null;
                    shape = shape(p, name);
                }
                case Header.OFFSETS -> {
                    twice = offsets != null;
                    offsets = offsets(p, name);
                }
                default -> throw error(Kind.UNKNOWN_FIELD, name,
                        "its entry has the unknown field " + SafetensorsException.quote(field));
            }
            if (twice) {
                throw error(Kind.DUPLICATE_KEY, name, "its entry has " + field + " twice");
            }
        }
        if (dtype == null || shape == null || offsets == null) {
            throw error(Kind.MISSING_FIELD, name, "its entry lacks "
                    + (dtype == null ? Header.DTYPE : shape == null ? Header.SHAPE : Header.OFFSETS));
        }
        return new Entry(name, dtype, shape, offsets[0], offsets[1]);
    }

    private DType dtype(JsonParser p, String name) throws IOException {
        if (p.currentToken() != JsonToken.VALUE_STRING) {
            throw error(Kind.DTYPE_NOT_STRING, name, "its dtype is " + what(p.currentToken()) + ", not a string");
        }
        DType dtype = Header.dtype(p.getText());
        if (dtype == null) {
            throw error(Kind.UNKNOWN_DTYPE, name, "its dtype " + SafetensorsException.quote(p.getText())
                    + " is not one of " + Arrays.toString(DType.values()));
        }
        return dtype;
    }

    private long[] shape(JsonParser p, String name) throws IOException {
        if (p.currentToken() != JsonToken.START_ARRAY) {
            throw error(Kind.SHAPE_NOT_NUMBERS, name, "its shape is " + what(p.currentToken()) + ", not an array");
        }
        long[] dims = new long[4];
        int rank = 0;
        for (JsonToken t = p.nextToken(); t != JsonToken.END_ARRAY; t = p.nextToken()) {
            if (t == JsonToken.VALUE_NUMBER_FLOAT) {
                throw error(Kind.FRACTIONAL_DIMENSION, name, "its shape has the dimension "
                        + SafetensorsException.quote(p.getText()) + ", not a whole number of digits alone");
            }
            if (t != JsonToken.VALUE_NUMBER_INT) {
                throw error(Kind.SHAPE_NOT_NUMBERS, name, "its shape holds " + what(t) + ", not a number");
            }
            String digits = p.getText();
            if (digits.startsWith("-")) {
                throw error(Kind.NEGATIVE_DIMENSION, name,
                        "its shape has the negative dimension " + SafetensorsException.quote(digits));
            }
            long d = parse(digits);
            if (d < 0) {
                throw error(Kind.SHAPE_OVERFLOW, name, "its shape has the dimension "
                        + SafetensorsException.quote(digits) + ", which passes 2^63 - 1");
            }
            if (rank == dims.length) {
                dims = Arrays.copyOf(dims, 2 * rank);
            }
            dims[rank++] = d;
        }
        return Arrays.copyOf(dims, rank);
    }

    private long[] offsets(JsonParser p, String name) throws IOException {
        long[] offsets = new long[2];
        int count = 0;
        boolean good = p.currentToken() == JsonToken.START_ARRAY;
        while (good) {
            JsonToken t = p.nextToken();
            if (t == JsonToken.END_ARRAY) {
                break;
            }
            good = t == JsonToken.VALUE_NUMBER_INT && count < 2 && !p.getText().startsWith("-");
            if (good) {
                offsets[count] = parse(p.getText());
                good = offsets[count++] >= 0;
            }
        }
        if (!good || count != 2) {
            throw error(Kind.BAD_OFFSETS, name,
                    "its " + Header.OFFSETS + " are not an array of two whole numbers from 0 to 2^63 - 1");
        }
        return offsets;
    }

    /** The value of decimal digits, or -1 where it passes a long. */
    private static long parse(String digits) {
        try {
            return Long.parseLong(digits);
        } catch (NumberFormatException overflow) {
            return -1;
        }
    }

    /** The parser lets some escapes of half a surrogate pair pass. */
    private String unicode(String text) throws SafetensorsException {
        if (!Json.isUnicode(text)) {
            throw error(Kind.HEADER_NOT_JSON, null,
                    "the header is not JSON: half a surrogate pair in " + SafetensorsException.quote(text));
        }
        return text;
    }

    /** A shape for a message. */
    static String show(long[] shape) {
        return shape.length <= SHOWN_DIMENSIONS
                ? Arrays.toString(shape)
                : "[... " + shape.length + " dimensions]";
    }

    private static String what(JsonToken token) {
        return switch (token) {
            case null -> "cut off";
            case START_OBJECT -> "an object";
            case START_ARRAY -> "an array";
            case VALUE_STRING -> "a string";
            case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> "a number";
            case VALUE_NULL -> "null";
            default -> "true or false";
        };
    }

    private SafetensorsException error(Kind kind, String tensor, String message) {
        return new SafetensorsException(kind, file, tensor, message);
    }
}
