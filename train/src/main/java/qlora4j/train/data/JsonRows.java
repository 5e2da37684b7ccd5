package qlora4j.train.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.exc.StreamConstraintsException;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** One JSON array of objects, or one JSON object per line, where blank lines are passed over. */
final class JsonRows {
    private static final TypeReference<Map<String, Object>> OBJECT = new TypeReference<>() {
    };
    private static final ObjectMapper MAPPER = new ObjectMapper(
            JsonFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build())
            .enable(DeserializationFeature.USE_LONG_FOR_INTS);

    private JsonRows() {
    }

    static List<RawRow> lines(String file, String text) throws IOException {
        List<RawRow> rows = new ArrayList<>();
        int number = 0;
        for (int start = 0; start < text.length();) {
            int newline = text.indexOf('\n', start);
            int end = newline < 0 ? text.length() : newline;
            String line = text.substring(start, end);
            start = end + 1;
            number++;
            if (line.isBlank()) {
                continue;
            }
            String where = file + ", line " + number;
            try (JsonParser parser = MAPPER.createParser(line)) {
                parser.nextToken();
                rows.add(new RawRow(where, object(where, parser)));
                if (parser.nextToken() != null) {
                    throw new DataException(where + ": something follows the object; each line holds one");
                }
            } catch (JsonProcessingException e) {
                throw invalid(where, "column " + column(e), e);
            }
        }
        return rows;
    }

    static List<RawRow> array(String file, String text) throws IOException {
        List<RawRow> rows = new ArrayList<>();
        String where = file;
        try (JsonParser parser = MAPPER.createParser(text)) {
            parser.nextToken();
            for (int number = 1;; number++) {
                where = file + ", row " + number;
                if (parser.nextToken() == JsonToken.END_ARRAY) {
                    break;
                }
                rows.add(new RawRow(where, object(where, parser)));
            }
            where = file;
            if (parser.nextToken() != null) {
                throw new DataException(file + ": something follows the array of rows");
            }
        } catch (JsonProcessingException e) {
            throw invalid(where, e.getLocation() == null ? "place unknown"
                    : "line " + e.getLocation().getLineNr() + ", column " + column(e), e);
        }
        if (rows.isEmpty()) {
            throw new DataException(file + ": its array holds no rows");
        }
        return rows;
    }

    /** The value of a column that holds JSON as text. */
    static Object value(String where, String column, String json) {
        try {
            return MAPPER.readValue(json, Object.class);
        } catch (JsonProcessingException e) {
            throw new DataException(where + ": \"" + column + "\" is text that is not valid JSON (column "
                    + column(e) + "): " + e.getOriginalMessage(), e);
        }
    }

    private static String column(JsonProcessingException e) {
        return e.getLocation() == null ? "unknown" : Integer.toString(e.getLocation().getColumnNr());
    }

    private static DataException invalid(String where, String place, JsonProcessingException e) {
        return new DataException(where + " (" + place + "): "
                + (e instanceof StreamConstraintsException ? "more than this reader takes: " : "not valid JSON: ")
                + e.getOriginalMessage(), e);
    }

    private static Map<String, Object> object(String where, JsonParser parser) throws IOException {
        if (parser.currentToken() == JsonToken.START_OBJECT) {
            return MAPPER.readValue(parser, OBJECT);
        }
        throw new DataException(
                where + ": a row must be an object, this is " + Fields.kind(MAPPER.readValue(parser, Object.class)));
    }
}
