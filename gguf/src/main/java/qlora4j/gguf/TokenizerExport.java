package qlora4j.gguf;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import qlora4j.gguf.Vocabulary.Type;
import qlora4j.model.ModelDirectory;
import qlora4j.model.SpecialToken;
import qlora4j.model.Tokenizer;

/**
 * Writes the vocabulary of a {@code tokenizer.json} into a file's metadata: byte-level BPE, and BPE with byte fallback as
 * SentencePiece makes it.
 */
final class TokenizerExport {
    private static final JsonMapper JSON = new JsonMapper();
    private static final String SPACE = "\u2581";
    /** For pieces that no merge makes: below every score that one has. */
    private static final float UNREACHED = -1e9f;

    private final Path file;
    private final JsonNode json;
    private final JsonNode model;
    private final ModelDirectory directory;
    private final String pre;

    private TokenizerExport(ModelDirectory directory, String pre) throws IOException {
        this.directory = directory;
        this.pre = pre;
        this.file = directory.path().resolve(Tokenizer.FILE);
        try {
            this.json = JSON.readTree(Files.readAllBytes(file));
        } catch (JsonProcessingException e) {
            throw new IOException(file + ": not a tokenizer's JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new IOException(file + ": not a tokenizer's JSON: not in UTF-8: " + e.getMessage(), e);
        }
        this.model = json.path("model");
    }

    /**
     * Declares the metadata of the tokenizer.
     *
     * @param rows of the embedding: as many tokens are written
     * @param pre the name to write for how texts are cut into words; null to find it
     * @throws IOException if the tokenizer is of a kind that llama.cpp does not have
     */
    static void write(ModelDirectory directory, int rows, String pre, GgufWriter out) throws IOException {
        new TokenizerExport(directory, pre).write(rows, out);
    }

    private IOException error(String problem) {
        return new IOException(file + ": " + problem);
    }

    private void write(int rows, GgufWriter out) throws IOException {
        if (!model.path("type").asText().equals("BPE") || !model.path("vocab").isObject()) {
            throw error("a tokenizer of type \"" + model.path("type").asText() + "\" cannot be exported; BPE can");
        }
        String[] tokens = new String[rows];
        Type[] types = new Type[rows];
        boolean sentencePiece = model.path("byte_fallback").asBoolean() && !hasByteLevel(json.path("pre_tokenizer"));
        for (Map.Entry<String, JsonNode> e : model.path("vocab").properties()) {
            put(tokens, types, e.getValue().asInt(-1), e.getKey(),
                    sentencePiece && e.getKey().matches("<0x[0-9A-F]{2}>") ? Type.BYTE : Type.NORMAL);
        }
        String unknown = model.path("unk_token").asText(null);
        for (JsonNode added : json.path("added_tokens")) {
            String text = added.path("content").asText();
            int id = added.path("id").asInt(-1);
            boolean isByte = id >= 0 && id < rows && types[id] == Type.BYTE;
            put(tokens, types, id, text, isByte ? Type.BYTE
                    : !added.path("special").asBoolean() ? Type.USER_DEFINED
                            : sentencePiece && text.equals(unknown) ? Type.UNKNOWN : Type.CONTROL);
        }
        for (int id = 0; id < rows; id++) {
            if (tokens[id] == null) {
                tokens[id] = Vocabulary.padding(id);
                types[id] = Type.UNUSED;
            }
        }
        out.text(Vocabulary.MODEL, sentencePiece ? Vocabulary.SENTENCE_PIECE : Vocabulary.BYTE_LEVEL);
        out.text(Vocabulary.PRE, sentencePiece ? "default" : preTokenizer());
        out.texts(Vocabulary.TOKENS, Arrays.asList(tokens));
        List<String> merges = merges();
        if (sentencePiece) {
            out.float32s(Vocabulary.SCORES, scores(tokens, merges));
        }
        out.int32s(Vocabulary.TYPES, Arrays.stream(types).mapToInt(Type::ordinal).toArray());
        if (sentencePiece) {
            out.flag(Vocabulary.ADD_SPACE_PREFIX, spacePrefix());
        } else {
            out.texts(Vocabulary.MERGES, merges);
        }
        ids(out);
        templates(out);
    }

    private void put(String[] tokens, Type[] types, int id, String text, Type type) throws IOException {
        if (id < 0 || id >= tokens.length) {
            throw error("token " + GgufException.quote(text) + " has the id " + id + ", but the embedding has "
                    + tokens.length + " rows");
        }
        tokens[id] = text;
        types[id] = type;
    }

    private static boolean hasByteLevel(JsonNode node) {
        if (node.path("type").asText().equals("ByteLevel")) {
            return true;
        }
        for (JsonNode step : node.path("pretokenizers")) {
            if (hasByteLevel(step)) {
                return true;
            }
        }
        return false;
    }

    private String preTokenizer() throws IOException {
        if (pre != null) {
            return pre;
        }
        PreTokenizer kind = PreTokenizer.of(json.path("pre_tokenizer"), model.path("ignore_merges").asBoolean(),
                json.path("normalizer").path("type").asText().equals("NFC"));
        if (kind == null) {
            throw error("its pre_tokenizer is none of those that are known to llama.cpp's names ("
                    + String.join(", ", PreTokenizer.known()) + "); give the name with --pre: " + json.path(
                            "pre_tokenizer"));
        }
        return kind.name();
    }

    /** Two tokens with a space between them, whichever of its two spellings the file has. */
    private List<String> merges() throws IOException {
        List<String> merges = new ArrayList<>();
        for (JsonNode merge : model.path("merges")) {
            if (merge.isTextual()) {
                merges.add(merge.textValue());
            } else if (merge.size() == 2) {
                merges.add(merge.get(0).asText() + " " + merge.get(1).asText());
            } else {
                throw error("a merge is " + merge + "; two tokens are expected");
            }
        }
        return merges;
    }

    /** The order of the merges as scores: the first that makes a piece is what counts. */
    private static float[] scores(String[] tokens, List<String> merges) {
        Map<String, Integer> made = new HashMap<>();
        for (int i = 0; i < merges.size(); i++) {
            String merge = merges.get(i);
            int space = merge.indexOf(' ', 1);
            made.putIfAbsent(merge.substring(0, space) + merge.substring(space + 1), i);
        }
        float[] scores = new float[tokens.length];
        for (int id = 0; id < scores.length; id++) {
            scores[id] = made.containsKey(tokens[id]) ? -made.get(tokens[id])
                    : tokens[id].codePointCount(0, tokens[id].length()) > 1 ? UNREACHED : 0;
        }
        return scores;
    }

    /** Whether a space is put before a text: by a normalizer, or by the step that turns spaces into letters. */
    private boolean spacePrefix() {
        JsonNode normalizer = json.path("normalizer");
        for (JsonNode step : normalizer.has("normalizers") ? normalizer.path("normalizers") : List.of(normalizer)) {
            if (step.path("type").asText().equals("Prepend") && step.path("prepend").asText().equals(SPACE)) {
                return true;
            }
        }
        JsonNode step = json.path("pre_tokenizer");
        return step.path("type").asText().equals("Metaspace")
                && !step.path("prepend_scheme").asText("always").equals("never");
    }

    private void ids(GgufWriter out) throws IOException {
        Tokenizer tokenizer = directory.tokenizer();
        OptionalInt bos = id(tokenizer.bos().orElse(null));
        OptionalInt eos = directory.generation().eosIds().isEmpty() ? tokenizer.eosId()
                : OptionalInt.of(directory.trainingEos());
        bos.ifPresent(id -> out.uint32(Vocabulary.BOS, id));
        eos.ifPresent(id -> out.uint32(Vocabulary.EOS, id));
        List<Integer> more = new ArrayList<>(directory.generation().eosIds());
        eos.ifPresent(id -> more.remove(Integer.valueOf(id)));
        for (int i = 0; i < Math.min(more.size(), Vocabulary.MORE_ENDS.size()); i++) {
            out.uint32(Vocabulary.MORE_ENDS.get(i), more.get(i));
        }
        id(tokenizer.unk().orElse(null)).ifPresent(id -> out.uint32(Vocabulary.UNKNOWN, id));
        id(tokenizer.pad().orElse(null)).ifPresent(id -> out.uint32(Vocabulary.PADDING, id));
        int[] plain = tokenizer.encode("a", false);
        int[] dressed = tokenizer.encode("a", true);
        boolean addsBos = bos.isPresent() && dressed.length > plain.length && dressed[0] == bos.getAsInt();
        boolean addsEos = eos.isPresent() && dressed.length > plain.length
                && dressed[dressed.length - 1] == eos.getAsInt();
        if (dressed.length != plain.length + (addsBos ? 1 : 0) + (addsEos ? 1 : 0)) {
            throw error("it adds other tokens than BOS and EOS to a text, which llama.cpp does not");
        }
        out.flag(Vocabulary.ADD_BOS, addsBos).flag(Vocabulary.ADD_EOS, addsEos);
    }

    private static OptionalInt id(SpecialToken token) {
        return token == null ? OptionalInt.empty() : token.id();
    }

    private void templates(GgufWriter out) throws IOException {
        for (Map.Entry<String, String> e : directory.tokenizer().chatTemplateSources().entrySet()) {
            boolean usual = e.getKey().equals("default");
            out.text(Vocabulary.CHAT_TEMPLATE + (usual ? "" : "." + e.getKey()), e.getValue());
        }
    }
}
