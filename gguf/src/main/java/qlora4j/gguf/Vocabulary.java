package qlora4j.gguf;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import qlora4j.gguf.GgufException.Kind;

/** The vocabulary of a file's metadata: {@code tokenizer.ggml.*} (gguf-py's constants.py). */
final class Vocabulary {
    static final String PREFIX = "tokenizer.ggml.";
    static final String MODEL = PREFIX + "model";
    static final String PRE = PREFIX + "pre";
    static final String TOKENS = PREFIX + "tokens";
    static final String TYPES = PREFIX + "token_type";
    static final String SCORES = PREFIX + "scores";
    static final String MERGES = PREFIX + "merges";
    static final String BOS = PREFIX + "bos_token_id";
    static final String EOS = PREFIX + "eos_token_id";
    static final String UNKNOWN = PREFIX + "unknown_token_id";
    static final String PADDING = PREFIX + "padding_token_id";
    /** Further tokens that end a text: of a turn, of a message. */
    static final List<String> MORE_ENDS = List.of(PREFIX + "eot_token_id", PREFIX + "eom_token_id");
    static final String ADD_BOS = PREFIX + "add_bos_token";
    static final String ADD_EOS = PREFIX + "add_eos_token";
    static final String ADD_SPACE_PREFIX = PREFIX + "add_space_prefix";
    static final String CHAT_TEMPLATE = "tokenizer.chat_template";

    /** SentencePiece's byte-pair vocabularies, as llama's first. */
    static final String SENTENCE_PIECE = "llama";
    /** Byte-level byte-pair vocabularies. */
    static final String BYTE_LEVEL = "gpt2";

    /** What a token is, in the order of the codes in a file. */
    enum Type {
        UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE
    }

    private final Path file;
    private final GgufMetadata metadata;
    private final String model;
    private final List<String> tokens;
    private final Type[] types;

    Vocabulary(Path file, GgufMetadata metadata) throws GgufException {
        this.file = file;
        this.metadata = metadata;
        this.model = metadata.text(MODEL);
        if (!model.equals(SENTENCE_PIECE) && !model.equals(BYTE_LEVEL)) {
            throw new GgufException(Kind.UNSUPPORTED, file, MODEL + " is " + GgufException.quote(model)
                    + "; supported are " + SENTENCE_PIECE + " (SentencePiece) and " + BYTE_LEVEL + " (byte-level BPE)");
        }
        this.tokens = metadata.texts(TOKENS);
        if (tokens.isEmpty()) {
            throw metadata.wrong(TOKENS, "at least one token");
        }
        this.types = new Type[tokens.size()];
        Arrays.fill(types, Type.NORMAL);
        if (metadata.has(TYPES)) {
            long[] codes = metadata.integers(TYPES);
            if (codes.length != types.length) {
                throw metadata.wrong(TYPES, "one for each of the " + types.length + " tokens");
            }
            for (int i = 0; i < codes.length; i++) {
                if (codes[i] < 0 || codes[i] >= Type.values().length) {
                    throw new GgufException(Kind.BAD_VALUE, file, "token " + i + " has the type " + codes[i]
                            + "; types are 0 to " + (Type.values().length - 1));
                }
                types[i] = Type.values()[(int) codes[i]];
            }
        }
    }

    boolean isSentencePiece() {
        return model.equals(SENTENCE_PIECE);
    }

    GgufMetadata metadata() {
        return metadata;
    }

    int size() {
        return tokens.size();
    }

    String token(int id) {
        return tokens.get(id);
    }

    Type type(int id) {
        return types[id];
    }

    /** Whether converters made this token up, because the embedding has more rows than the vocabulary tokens. */
    boolean isPadding(int id) {
        return types[id] == Type.UNUSED && tokens.get(id).equals(padding(id));
    }

    static String padding(int id) {
        return "[PAD" + id + "]";
    }

    /** The ids of the tokens; of tokens that are written alike the first counts. */
    Map<String, Integer> ids() {
        Map<String, Integer> ids = new HashMap<>();
        for (int i = 0; i < tokens.size(); i++) {
            if (!isPadding(i)) {
                ids.putIfAbsent(tokens.get(i), i);
            }
        }
        return ids;
    }

    /** The scores of a SentencePiece vocabulary, one for each token. */
    double[] scores() throws GgufException {
        double[] scores = metadata.numbers(SCORES);
        if (scores.length != tokens.size()) {
            throw metadata.wrong(SCORES, "one for each of the " + tokens.size() + " tokens");
        }
        return scores;
    }

    /** A token's id; {@code absent} where the file does not say; empty for none. */
    OptionalInt id(String key, int absent) throws GgufException {
        OptionalInt id = metadata.has(key) || absent < 0 ? metadata.tokenId(key) : OptionalInt.of(absent);
        if (id.isPresent() && id.getAsInt() >= tokens.size()) {
            throw metadata.wrong(key, "the id of one of the " + tokens.size() + " tokens");
        }
        return id;
    }

    OptionalInt bos() throws GgufException {
        return id(BOS, isSentencePiece() ? 1 : -1);
    }

    OptionalInt eos() throws GgufException {
        return id(EOS, isSentencePiece() ? 2 : -1);
    }

    OptionalInt unknown() throws GgufException {
        return id(UNKNOWN, isSentencePiece() ? 0 : -1);
    }

    OptionalInt padding() throws GgufException {
        return id(PADDING, -1);
    }

    Path file() {
        return file;
    }
}
