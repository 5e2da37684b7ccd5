package qlora4j.model;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Path;
import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeMap;

/**
 * What a {@code tokenizer.json} says about its tokens: which ids there are, which are special, which stand for one byte,
 * and how tokens become text. The file is streamed: vocabularies are long.
 */
final class TokenizerVocabulary {
    /** For values inside a stream: what follows them is the next field. */
    private static final JsonMapper STREAMING = new JsonMapper();
    private static final int BYTE_TOKEN_LENGTH = "<0x00>".length();
    /** Sixty times the largest vocabulary there is; memory is proportional to the largest id. */
    private static final int MAX_ID = (1 << 24) - 1;

    private final Path file;
    private final BitSet ids = new BitSet();
    private final BitSet special = new BitSet();
    private final BitSet bytes = new BitSet();
    private final Set<String> wanted;
    private final Map<String, Integer> found = new HashMap<>();
    private final Map<String, Integer> letters = new TreeMap<>();
    /** Whether all tokens are written in the alphabet of byte-level tokenizers. */
    private boolean byteLevel = true;
    private JsonNode decoder;

    private TokenizerVocabulary(Path file, Set<String> wanted) {
        this.file = file;
        this.wanted = wanted;
    }

    /**
     * Reads the file.
     *
     * @param wanted tokens whose ids will be asked for
     */
    static TokenizerVocabulary read(Path file, Set<String> wanted) throws IOException {
        TokenizerVocabulary vocabulary = new TokenizerVocabulary(file, wanted);
        try (JsonParser parser = new StrictParser(STREAMING.createParser(file.toFile()))) {
            vocabulary.readFile(parser);
        } catch (JsonProcessingException e) {
            throw new ModelFormatException(file, "not a tokenizer's JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new ModelFormatException(file, "not a tokenizer's JSON: not in UTF-8: " + e.getMessage(), e);
        }
        if (vocabulary.ids.isEmpty()) {
            throw new ModelFormatException(file, "the tokenizer has no vocabulary (\"model\".\"vocab\")");
        }
        return vocabulary;
    }

    private void readFile(JsonParser parser) throws IOException {
        if (parser.nextToken() != JsonToken.START_OBJECT) {
            throw new ModelFormatException(file, "a JSON object is expected");
        }
        for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
            parser.nextToken();
            switch (field) {
                case "added_tokens" -> readAdded(parser.readValueAsTree());
                case "decoder" -> {
                    decoder = parser.readValueAsTree();
                    checkDecoder(decoder);
                }
                case "model" -> readModel(parser);
                default -> parser.skipChildren();
            }
        }
    }

    /**
     * What makes the tokenizers library (0.21) end the process instead of reporting an error: a Strip that cuts from the
     * end, on a shorter token. A decoder without a type is one too, where its fields are.
     */
    private void checkDecoder(JsonNode step) throws ModelFormatException {
        JsonNode stop = step.path("stop");
        if (!stop.isMissingNode() && !(stop.isIntegralNumber() && stop.bigIntegerValue().signum() == 0)) {
            throw new ModelFormatException(file, "a decoder of type Strip with \"stop\" " + stop
                    + " is not supported; with 0 it is");
        }
        for (JsonNode inner : step.path("decoders")) {
            checkDecoder(inner);
        }
    }

    private void readAdded(JsonNode tokens) throws ModelFormatException {
        for (JsonNode token : tokens) {
            JsonNode id = token.path("id");
            if (!id.canConvertToInt() || !id.isIntegralNumber() || !token.path("content").isTextual()) {
                throw new ModelFormatException(file, "an entry of \"added_tokens\" has no id or no content: " + token);
            }
            add(token.get("content").textValue(), id.intValue());
            special.set(id.intValue(), token.path("special").asBoolean(false));
        }
    }

    private void readModel(JsonParser parser) throws IOException {
        if (!parser.isExpectedStartObjectToken()) {
            throw new ModelFormatException(file, "\"model\" is no object");
        }
        boolean prefixed = false;
        boolean merges = false;
        for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
            JsonToken start = parser.nextToken();
            prefixed |= field.equals("continuing_subword_prefix") && start == JsonToken.VALUE_STRING
                    && !parser.getText().isEmpty();
            merges |= field.equals("merges");
            if (!field.equals("vocab")) {
                parser.skipChildren();
            } else if (start == JsonToken.START_OBJECT) {
                for (String text = parser.nextFieldName(); text != null; text = parser.nextFieldName()) {
                    parser.nextToken();
                    add(text, parser.getIntValue());
                }
            } else {
                // A unigram model's list of [text, score]: the id is the place.
                int id = 0;
                for (JsonNode entry : parser.<JsonNode>readValueAsTree()) {
                    add(entry.path(0).asText(), id++);
                }
            }
        }
        // The library cuts the prefix off the merges' tokens without looking whether they have it, and ends the process.
        if (prefixed && merges) {
            throw new ModelFormatException(file, "a \"continuing_subword_prefix\" in a BPE model is not supported");
        }
    }

    private void add(String text, int id) throws ModelFormatException {
        if (id < 0 || id > MAX_ID) {
            throw new ModelFormatException(file,
                    "token \"" + text + "\" has the id " + id + "; ids are 0 to " + MAX_ID);
        }
        ids.set(id);
        byteLevel &= text.chars().allMatch(TokenizerVocabulary::isByteLevel);
        if (wanted.contains(text)) {
            found.put(text, id);
        }
        if (text.length() == BYTE_TOKEN_LENGTH && text.matches("<0x[0-9A-Fa-f]{2}>")) {
            bytes.set(id);
        }
        if (text.length() == 1 && Character.isLetter(text.charAt(0)) && text.charAt(0) < 0x80) {
            letters.put(text, id);
        }
    }

    boolean contains(int id) {
        return id >= 0 && ids.get(id);
    }

    boolean isSpecial(int id) {
        return special.get(id);
    }

    /** Whether the token stands for one byte, and runs of such tokens are decoded together. */
    boolean isByte(int id) {
        return bytes.get(id);
    }

    /** One more than the largest id. */
    int size() {
        return ids.length();
    }

    /** The id of one of the wanted tokens. */
    OptionalInt id(String text) {
        Integer id = found.get(text);
        return id == null ? OptionalInt.empty() : OptionalInt.of(id);
    }

    /** Tokens that are one ASCII letter, and their ids. */
    Map<String, Integer> letters() {
        return letters;
    }

    /**
     * Whether a text can be decoded from its tokens piece by piece: each token adds the same text wherever it stands,
     * but for what the first one loses at its start and for characters whose bytes are spread over several tokens.
     */
    boolean decodesPiecewise() {
        if (decoder == null) {
            return false;
        }
        boolean fused = false;
        for (JsonNode step : decoder.has("decoders") ? decoder.get("decoders") : Set.of(decoder)) {
            String pattern = step.path("pattern").path("String").asText();
            boolean local = switch (step.path("type").asText()) {
                case "Metaspace", "ByteFallback" -> !fused;
                // One that comes after Fuse gives up on the whole text where it meets a foreign character.
                case "ByteLevel" -> !fused || byteLevel && bytes.isEmpty();
                case "Replace" -> fused ? pattern.length() == 1 && !isByteLevel(pattern.charAt(0)) : !pattern.isEmpty();
                case "Strip" -> fused && step.path("stop").asInt() == 0;
                case "Fuse" -> true;
                default -> false;
            };
            if (!local) {
                return false;
            }
            fused |= step.path("type").asText().matches("Fuse|ByteLevel");
        }
        return true;
    }

    /** Whether a character stands for a byte in the alphabet of byte-level tokenizers (GPT-2's bytes_to_unicode). */
    private static boolean isByteLevel(int c) {
        return c >= '!' && c <= '~' || c >= 0xA1 && c <= 0xFF && c != 0xAD || c >= 0x100 && c < 0x144;
    }
}
