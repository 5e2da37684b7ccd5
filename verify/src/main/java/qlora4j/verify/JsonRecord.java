package qlora4j.verify;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.StreamSupport;

/** Recorded JSON. */
final class JsonRecord {
    static final JsonMapper MAPPER = JsonMapper.builder().build();

    private JsonRecord() {
    }

    static JsonNode read(Path file) throws IOException {
        return parse(file, Files.readAllBytes(file));
    }

    /** Parses text that stands in {@code file}. */
    static JsonNode parse(Path file, byte[] utf8) throws IOException {
        try {
            return MAPPER.readTree(utf8);
        } catch (JacksonException e) {
            throw new IOException(file + ": not valid JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new IOException(file + ": not valid JSON: not in UTF-8: " + e.getMessage(), e);
        }
    }

    static int[] ints(JsonNode list) {
        return StreamSupport.stream(list.spliterator(), false).mapToInt(JsonNode::intValue).toArray();
    }
}
