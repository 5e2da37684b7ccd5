package qlora4j.safetensors;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonFactoryBuilder;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.StreamReadConstraints;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** Strict JSON: a streaming parser over UTF-8 that reports what it cannot decode, and strings written. */
final class Json {
    /** Nothing that is read nests deeper than a few levels; the rest of a foreign object is passed over iteratively. */
    private static final int MAX_DEPTH = 64;
    private static final int MAX_TEXT = (int) Header.MAX_BYTES;

    // Without the shared symbol table: names come from files, and a table can be made to collide.
    private static final JsonFactory FACTORY = new JsonFactoryBuilder()
            .disable(JsonFactory.Feature.CANONICALIZE_FIELD_NAMES)
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(MAX_DEPTH).maxStringLength(MAX_TEXT)
                    .maxNameLength(MAX_TEXT).maxNumberLength(MAX_TEXT).build())
            .build();

    private Json() {
    }

    /**
     * A parser of UTF-8 bytes. It throws {@link java.nio.charset.CharacterCodingException} where they are not UTF-8 and
     * {@link com.fasterxml.jackson.core.JsonProcessingException} where they are not JSON. Duplicate keys are the
     * caller's to find: only it can say whose.
     */
    static JsonParser parser(byte[] utf8) throws IOException {
        return FACTORY.createParser(new InputStreamReader(new ByteArrayInputStream(utf8),
                StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
                        .onUnmappableCharacter(CodingErrorAction.REPORT)));
    }

    /** Whether {@code text} has only paired surrogates, so that UTF-8 can hold it. */
    static boolean isUnicode(String text) {
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (Character.isHighSurrogate(c) && i + 1 < text.length() && Character.isLowSurrogate(text.charAt(i + 1))) {
                i++;
            } else if (Character.isSurrogate(c)) {
                return false;
            }
        }
        return true;
    }

    /** Appends {@code text} as a JSON string, escaped as the reference implementation's writer escapes. */
    static void appendString(StringBuilder out, String text) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '"' -> out.append("\\\"");
                case '\\' -> out.append("\\\\");
                case '\b' -> out.append("\\b");
                case '\t' -> out.append("\\t");
                case '\n' -> out.append("\\n");
                case '\f' -> out.append("\\f");
                case '\r' -> out.append("\\r");
                default -> {
                    if (c < ' ') {
                        out.append(String.format("\\u%04x", (int) c));
                    } else {
                        out.append(c);
                    }
                }
            }
        }
        out.append('"');
    }
}
