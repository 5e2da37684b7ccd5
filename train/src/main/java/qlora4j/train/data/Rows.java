package qlora4j.train.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * Reads data files: UTF-8 with or without a byte order mark, holding either one JSON array of objects or one JSON
 * object per line (blank lines are passed over); the first character tells which, whatever the file is called. A row
 * with the fields {@code instruction} and {@code output} (and {@code input}, which may be null, empty or missing) is a
 * {@link Row.Alpaca}, one with {@code prompt} and {@code completion} a {@link Row.PromptCompletion}. All of these are
 * strings; other fields are kept and may be anything.
 */
public final class Rows {
    private static final TypeReference<Map<String, Object>> OBJECT = new TypeReference<>() {
    };
    private static final ObjectMapper MAPPER = new ObjectMapper(
            JsonFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build())
            .enable(DeserializationFeature.USE_LONG_FOR_INTS);
    /** The longest array that every JVM can make, and so the longest file that is read in one piece. */
    private static final long MAX_BYTES = Integer.MAX_VALUE - 8;
    private static final char BYTE_ORDER_MARK = '\uFEFF';
    private static final String FORMS = "a data file holds a JSON array of objects, or one JSON object per line";

    private final String file;
    private final List<Row> rows = new ArrayList<>();

    private Rows(Path file) {
        this.file = file.toString();
    }

    /**
     * The rows of a file, in its order; at least one.
     *
     * @throws DataException where the file is not as the class describes it, or a completion is empty
     * @throws IOException   where the file cannot be read
     */
    public static List<Row> read(Path file) throws IOException {
        Rows reader = new Rows(file);
        if (!Files.isRegularFile(file)) {
            throw reader.error(Files.exists(file) ? "is no file; " + FORMS : "there is no such file");
        }
        if (Files.size(file) > MAX_BYTES) {
            throw reader.error("is larger than 2 GiB; split it");
        }
        String text = reader.decode(Files.readAllBytes(file));
        String body = text.strip();
        if (body.isEmpty()) {
            throw reader.error("is empty; " + FORMS);
        }
        switch (body.charAt(0)) {
            case '[' -> reader.readArray(text);
            case '{' -> reader.readLines(text);
            default -> throw reader.error("begins with neither [ nor {; " + FORMS);
        }
        return Collections.unmodifiableList(reader.rows);
    }

    private DataException error(String problem) {
        return new DataException(file + ": " + problem);
    }

    private String decode(byte[] bytes) {
        ByteBuffer in = ByteBuffer.wrap(bytes);
        CharBuffer out = CharBuffer.allocate(bytes.length);
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder();
        CoderResult result = decoder.decode(in, out, true);
        if (result.isError()) {
            int line = 1;
            for (int i = 0; i < in.position(); i++) {
                line += bytes[i] == '\n' ? 1 : 0;
            }
            throw new DataException(file + ", line " + line + ": byte " + in.position()
                    + " of the file is not UTF-8; save the file as UTF-8");
        }
        out.flip();
        return withoutByteOrderMark(out.toString());
    }

    static String withoutByteOrderMark(String text) {
        return !text.isEmpty() && text.charAt(0) == BYTE_ORDER_MARK ? text.substring(1) : text;
    }

    private void readLines(String text) throws IOException {
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
                rows.add(row(where, object(where, parser)));
                if (parser.nextToken() != null) {
                    throw new DataException(where + ": something follows the object; each line holds one");
                }
            } catch (JsonProcessingException e) {
                throw invalid(where, "column " + e.getLocation().getColumnNr(), e);
            }
        }
    }

    private void readArray(String text) throws IOException {
        String where = file;
        try (JsonParser parser = MAPPER.createParser(text)) {
            parser.nextToken();
            for (int number = 1;; number++) {
                where = file + ", row " + number;
                if (parser.nextToken() == JsonToken.END_ARRAY) {
                    break;
                }
                rows.add(row(where, object(where, parser)));
            }
            where = file;
            if (parser.nextToken() != null) {
                throw error("something follows the array of rows");
            }
        } catch (JsonProcessingException e) {
            throw invalid(where,
                    "line " + e.getLocation().getLineNr() + ", column " + e.getLocation().getColumnNr(), e);
        }
        if (rows.isEmpty()) {
            throw error("its array holds no rows");
        }
    }

    private static DataException invalid(String where, String place, JsonProcessingException e) {
        return new DataException(where + " (" + place + "): not valid JSON: " + e.getOriginalMessage(), e);
    }

    private static Map<String, Object> object(String where, JsonParser parser) throws IOException {
        if (parser.currentToken() == JsonToken.START_OBJECT) {
            return MAPPER.readValue(parser, OBJECT);
        }
        throw new DataException(
                where + ": a row must be an object, this is " + kind(MAPPER.readValue(parser, Object.class)));
    }

    private static Row row(String where, Map<String, Object> parsed) {
        Map<String, Object> fields = Collections.unmodifiableMap(parsed);
        boolean instruction = fields.containsKey("instruction");
        boolean output = fields.containsKey("output");
        boolean prompt = fields.containsKey("prompt");
        boolean completion = fields.containsKey("completion");
        boolean alpaca = instruction && output;
        boolean promptCompletion = prompt && completion;
        if (alpaca && promptCompletion) {
            throw new DataException(
                    where + ": holds instruction and output, and prompt and completion too; keep one pair");
        }
        if (alpaca) {
            return new Row.Alpaca(where, filled(where, fields, "instruction"),
                    fields.get("input") == null ? "" : text(where, fields, "input"), filled(where, fields, "output"),
                    fields);
        }
        if (promptCompletion) {
            return new Row.PromptCompletion(where, text(where, fields, "prompt"), filled(where, fields, "completion"),
                    fields);
        }
        if ((instruction || output) && !prompt && !completion) {
            throw new DataException(where + ": \"" + (instruction ? "output" : "instruction") + "\" is missing; found "
                    + fields.keySet());
        }
        if ((prompt || completion) && !instruction && !output) {
            throw new DataException(where + ": \"" + (prompt ? "completion" : "prompt") + "\" is missing; found "
                    + fields.keySet());
        }
        throw new DataException(
                where + ": a row needs \"instruction\" and \"output\", or \"prompt\" and \"completion\";"
                        + " found " + fields.keySet());
    }

    private static String filled(String where, Map<String, Object> fields, String key) {
        String value = text(where, fields, key);
        if (value.isBlank()) {
            throw new DataException(where + ": \"" + key + "\" is empty; fill it or remove the row");
        }
        return value;
    }

    private static String text(String where, Map<String, Object> fields, String key) {
        if (!(fields.get(key) instanceof String value)) {
            throw new DataException(where + ": \"" + key + "\" must be a string, this is " + kind(fields.get(key)));
        }
        if (!StandardCharsets.UTF_8.newEncoder().canEncode(value)) {
            throw new DataException(where + ": \"" + key + "\" holds half a surrogate pair, which is no character");
        }
        return value;
    }

    private static String kind(Object value) {
        return switch (value) {
            case null -> "null";
            case String _ -> "a string";
            case Number _ -> "a number";
            case Boolean _ -> "a boolean";
            case List<?> _ -> "an array";
            default -> "an object";
        };
    }
}
