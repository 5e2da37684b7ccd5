package qlora4j.model;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;

/** A JSON object of a model directory, read field by field; an error names the file and the field. */
record JsonFile(Path file, ObjectNode fields) {
    static final JsonMapper MAPPER = JsonMapper.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).enable(SerializationFeature.INDENT_OUTPUT).build();

    static JsonFile read(Path file) throws IOException {
        try {
            if (MAPPER.readTree(Files.readAllBytes(file)) instanceof ObjectNode object) {
                return new JsonFile(file, object);
            }
        } catch (JsonProcessingException e) {
            throw new ModelFormatException(file, "not valid JSON: " + e.getOriginalMessage() + " (line "
                    + e.getLocation().getLineNr() + ")", e);
        } catch (CharConversionException e) {
            throw new ModelFormatException(file, "not valid JSON: not in UTF-8: " + e.getMessage(), e);
        }
        throw new ModelFormatException(file, "a JSON object is expected");
    }

    /** The file's fields, or none where there is no such file. */
    static JsonFile readIfPresent(Path file) throws IOException {
        return Files.exists(file) ? read(file) : new JsonFile(file, MAPPER.createObjectNode());
    }

    ModelFormatException error(String problem) {
        return new ModelFormatException(file, problem);
    }

    /** The field, or null where it is absent or null. */
    JsonNode get(String name) {
        JsonNode value = fields.get(name);
        return value == null || value.isNull() ? null : value;
    }

    boolean has(String name) {
        return get(name) != null;
    }

    private ModelFormatException wrong(String name, String expected) {
        return error("\"" + name + "\" is " + fields.get(name) + "; " + expected + " is expected");
    }

    int requiredInt(String name) throws ModelFormatException {
        if (!has(name)) {
            throw error("\"" + name + "\" is missing");
        }
        return optionalInt(name, 0);
    }

    int optionalInt(String name, int absent) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return absent;
        }
        if (!value.isIntegralNumber() || !value.canConvertToInt()) {
            throw wrong(name, "a whole number");
        }
        return value.intValue();
    }

    double optionalDouble(String name, double absent) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return absent;
        }
        if (!value.isNumber()) {
            throw wrong(name, "a number");
        }
        return value.doubleValue();
    }

    boolean optionalBoolean(String name, boolean absent) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return absent;
        }
        if (!value.isBoolean()) {
            throw wrong(name, "true or false");
        }
        return value.booleanValue();
    }

    String optionalString(String name, String absent) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return absent;
        }
        if (!value.isTextual()) {
            throw wrong(name, "a string");
        }
        return value.textValue();
    }

    /** The object in field {@code name}, or null where it is absent or null. */
    JsonFile optionalObject(String name) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return null;
        }
        if (!(value instanceof ObjectNode object)) {
            throw wrong(name, "an object");
        }
        return new JsonFile(file, object);
    }

    /** A token's id; empty where the field is absent, null or, as old configurations write "none", -1. */
    OptionalInt tokenId(String name) throws ModelFormatException {
        int id = optionalInt(name, -1);
        if (id < -1) {
            throw wrong(name, "a token id");
        }
        return id == -1 ? OptionalInt.empty() : OptionalInt.of(id);
    }

    /** Tokens' ids: one number or a list; empty where the field is absent or null. */
    List<Integer> tokenIds(String name) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return List.of();
        }
        List<Integer> ids = new ArrayList<>();
        for (JsonNode id : value.isArray() ? value : List.of(value)) {
            if (!id.isIntegralNumber() || !id.canConvertToInt() || id.intValue() < 0) {
                throw wrong(name, "a token id or a list of them");
            }
            if (!ids.contains(id.intValue())) {
                ids.add(id.intValue());
            }
        }
        return List.copyOf(ids);
    }

    /** Strings: a list; empty where the field is absent or null. */
    List<String> strings(String name) throws ModelFormatException {
        JsonNode value = get(name);
        if (value == null) {
            return List.of();
        }
        List<String> texts = new ArrayList<>();
        if (!value.isArray()) {
            throw wrong(name, "a list of strings");
        }
        for (JsonNode text : value) {
            if (!text.isTextual()) {
                throw wrong(name, "a list of strings");
            }
            texts.add(text.textValue());
        }
        return List.copyOf(texts);
    }
}
