package qlora4j.model;

import com.fasterxml.jackson.core.JsonParseException;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.util.JsonParserDelegate;
import java.io.IOException;

/**
 * JSON as strict as that of Rust's serde_json, with which the tokenizers library reads the same file: at some places it
 * ends the process where serde_json refuses what Jackson takes, namely half a surrogate pair, a number beyond a double,
 * and nesting deeper than 127.
 */
final class StrictParser extends JsonParserDelegate {
    private static final int MAX_DEPTH = 127;
    private int depth;

    StrictParser(JsonParser parser) {
        super(parser);
    }

    @Override
    public JsonToken nextToken() throws IOException {
        JsonToken token = super.nextToken();
        if (token == null) {
            return null;
        }
        if (token.isStructStart() && ++depth > MAX_DEPTH) {
            throw new JsonParseException(this, "nested deeper than " + MAX_DEPTH);
        }
        if (token.isStructEnd()) {
            depth--;
        }
        if ((token == JsonToken.VALUE_STRING || token == JsonToken.FIELD_NAME) && hasHalfPair(getText())) {
            throw new JsonParseException(this, "half a surrogate pair in a string");
        }
        if (token.isNumeric() && !Double.isFinite(getDoubleValue())) {
            throw new JsonParseException(this, "a number beyond the range of double");
        }
        return token;
    }

    @Override
    public JsonParser skipChildren() throws IOException {
        int outside = depth - 1;
        if (currentToken().isStructStart()) {
            while (depth > outside && nextToken() != null) {
                // Looked at, and passed over.
            }
        }
        return this;
    }

    private static boolean hasHalfPair(String text) {
        for (int i = 0; i < text.length(); i++) {
            if (Character.isHighSurrogate(text.charAt(i)) && i + 1 < text.length()
                    && Character.isLowSurrogate(text.charAt(i + 1))) {
                i++;
            } else if (Character.isSurrogate(text.charAt(i))) {
                return true;
            }
        }
        return false;
    }
}
