package qlora4j.gguf;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import qlora4j.gguf.GgufException.Kind;
import qlora4j.gguf.Vocabulary.Type;
import qlora4j.safetensors.AtomicFile;

/**
 * Writes {@code tokenizer.json}, {@code tokenizer_config.json} and {@code chat_template.jinja} from a file's vocabulary,
 * such that Hugging Face's tokenizers library gives the ids that llama.cpp gives.
 */
final class TokenizerImport {
    private static final JsonMapper JSON = new JsonMapper();
    private static final JsonNodeFactory NODES = JsonNodeFactory.instance;
    private static final String SPACE = "\u2581";
    private static final String TYPE = "type";

    private final Vocabulary vocabulary;
    private final PreTokenizer pre;
    private final List<String> notes;

    private TokenizerImport(Vocabulary vocabulary, String pre, List<String> notes) throws GgufException {
        this.vocabulary = vocabulary;
        this.notes = notes;
        this.pre = vocabulary.isSentencePiece() ? null
                : pre == null ? preTokenizer(vocabulary, notes) : chosen(pre);
    }

    private static PreTokenizer chosen(String name) {
        PreTokenizer pre = PreTokenizer.named(name);
        if (pre == null) {
            throw new IllegalArgumentException("--pre " + name + ": known are " + String.join(", ",
                    PreTokenizer.known()) + " and their other names");
        }
        return pre;
    }

    private static PreTokenizer preTokenizer(Vocabulary vocabulary, List<String> notes) throws GgufException {
        GgufMetadata metadata = vocabulary.metadata();
        if (!metadata.has(Vocabulary.PRE)) {
            notes.add(Vocabulary.PRE + " is absent: texts are cut into words as llama.cpp does by default, which may"
                    + " not be how the model was trained");
        }
        String name = metadata.text(Vocabulary.PRE, "default");
        if (name.equals(PreTokenizer.SMOLLM)) {
            notes.add(Vocabulary.PRE + " is " + name + ": read as transformers reads it; llama.cpp also cuts at each"
                    + " digit, which --pre command-r does");
        }
        PreTokenizer pre = PreTokenizer.named(name);
        if (pre == null) {
            throw new GgufException(Kind.UNSUPPORTED, vocabulary.file(), Vocabulary.PRE + " is "
                    + GgufException.quote(name) + ": how such a tokenizer cuts a text is not known here; known are "
                    + String.join(", ", PreTokenizer.known()) + " and their other names; choose one with --pre");
        }
        return pre;
    }

    /**
     * Writes the files into {@code directory}.
     *
     * @param maxLength the context of the model, in tokens
     * @param pre how a byte-level tokenizer cuts texts into words; null for as the file says
     * @param notes receives what a user should know
     */
    static void write(Vocabulary vocabulary, Path directory, int maxLength, String pre, List<String> notes)
            throws IOException {
        new TokenizerImport(vocabulary, pre, notes).write(directory, maxLength);
    }

    private void write(Path directory, int maxLength) throws IOException {
        AtomicFile.write(directory.resolve("tokenizer.json"), tokenizer());
        ObjectNode config = NODES.objectNode();
        config.put("clean_up_tokenization_spaces", false).put("model_max_length", maxLength);
        config.put("tokenizer_class", "PreTrainedTokenizerFast");
        role(config, "bos_token", vocabulary.bos());
        role(config, "eos_token", vocabulary.eos());
        role(config, "pad_token", vocabulary.padding());
        role(config, "unk_token", vocabulary.unknown());
        Map<String, String> templates = templates();
        if (templates.size() > 1) {
            ArrayNode list = config.putArray("chat_template");
            templates.forEach((name, text) -> list.addObject().put("name", name).put("template", text));
        }
        if (templates.containsKey("default")) {
            AtomicFile.write(directory.resolve("chat_template.jinja"),
                    templates.get("default").getBytes(StandardCharsets.UTF_8));
        } else {
            notes.add("there is no chat template in the file: generate --chat will not work");
        }
        AtomicFile.write(directory.resolve("tokenizer_config.json"),
                JSON.writerWithDefaultPrettyPrinter().writeValueAsBytes(config));
    }

    private void role(ObjectNode config, String role, OptionalInt id) {
        if (id.isPresent()) {
            config.put(role, vocabulary.token(id.getAsInt()));
        }
    }

    /** Templates by name; that of the plain key is {@code default}. */
    private Map<String, String> templates() throws GgufException {
        Map<String, String> templates = new LinkedHashMap<>();
        for (String key : vocabulary.metadata().keys()) {
            if (key.equals(Vocabulary.CHAT_TEMPLATE)) {
                templates.put("default", vocabulary.metadata().text(key));
            } else if (key.startsWith(Vocabulary.CHAT_TEMPLATE + ".")) {
                templates.put(key.substring(Vocabulary.CHAT_TEMPLATE.length() + 1), vocabulary.metadata().text(key));
            }
        }
        return templates;
    }

    private byte[] tokenizer() throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (JsonGenerator out = JSON.getFactory().createGenerator(bytes)) {
            out.useDefaultPrettyPrinter();
            out.writeStartObject();
            out.writeStringField("version", "1.0");
            out.writeNullField("truncation");
            out.writeNullField("padding");
            out.writePOJOField("added_tokens", addedTokens());
            out.writePOJOField("normalizer", normalizer());
            out.writePOJOField("pre_tokenizer", pre == null ? NODES.nullNode() : pre.toJson());
            out.writePOJOField("post_processor", postProcessor());
            out.writePOJOField("decoder", decoder());
            model(out);
            out.writeEndObject();
        }
        return bytes.toByteArray();
    }

    /** Tokens that are recognized in a text as they are written, in the order of their ids. */
    private ArrayNode addedTokens() {
        ArrayNode list = NODES.arrayNode();
        Map<String, Integer> ids = vocabulary.ids();
        for (int id = 0; id < vocabulary.size(); id++) {
            Type type = vocabulary.type(id);
            boolean special = type == Type.CONTROL || type == Type.UNKNOWN;
            if ((special || type == Type.USER_DEFINED) && ids.get(vocabulary.token(id)) == id) {
                list.addObject().put("id", id).put("content", vocabulary.token(id)).put("single_word", false)
                        .put("lstrip", false).put("rstrip", false).put("normalized", false).put("special", special);
            }
        }
        return list;
    }

    private boolean spacePrefix() throws GgufException {
        return vocabulary.metadata().flag(Vocabulary.ADD_SPACE_PREFIX, true);
    }

    private ObjectNode normalizer() throws GgufException {
        if (pre != null) {
            return pre.composed() ? NODES.objectNode().put(TYPE, "NFC") : null;
        }
        ObjectNode sequence = NODES.objectNode().put(TYPE, "Sequence");
        ArrayNode list = sequence.putArray("normalizers");
        if (spacePrefix()) {
            list.addObject().put(TYPE, "Prepend").put("prepend", SPACE);
        }
        replace(list, " ", SPACE);
        return sequence;
    }

    private static void replace(ArrayNode list, String text, String by) {
        ObjectNode replace = list.addObject().put(TYPE, "Replace");
        replace.putObject("pattern").put("String", text);
        replace.put("content", by);
    }

    private ObjectNode decoder() throws GgufException {
        if (pre != null) {
            return NODES.objectNode().put(TYPE, "ByteLevel").put("add_prefix_space", true).put("trim_offsets", true)
                    .put("use_regex", true);
        }
        ObjectNode sequence = NODES.objectNode().put(TYPE, "Sequence");
        ArrayNode list = sequence.putArray("decoders");
        replace(list, SPACE, " ");
        list.addObject().put(TYPE, "ByteFallback");
        list.addObject().put(TYPE, "Fuse");
        if (spacePrefix()) {
            list.addObject().put(TYPE, "Strip").put("content", " ").put("start", 1).put("stop", 0);
        }
        return sequence;
    }

    /** BOS before and EOS behind a text, where the file asks for them. */
    private ObjectNode postProcessor() throws GgufException {
        GgufMetadata metadata = vocabulary.metadata();
        boolean bos = metadata.flag(Vocabulary.ADD_BOS, pre == null || pre.addBos());
        boolean eos = metadata.flag(Vocabulary.ADD_EOS, false);
        ObjectNode processor = NODES.objectNode().put(TYPE, "TemplateProcessing");
        ArrayNode single = processor.putArray("single");
        ArrayNode pair = processor.putArray("pair");
        ObjectNode special = NODES.objectNode();
        for (int part = 0; part < 2; part++) {
            for (ArrayNode list : part == 0 ? List.of(single, pair) : List.of(pair)) {
                if (bos) {
                    special(list, special, vocabulary.bos(), Vocabulary.BOS, part);
                }
                list.addObject().putObject("Sequence").put("id", part == 0 ? "A" : "B").put("type_id", part);
                if (eos) {
                    special(list, special, vocabulary.eos(), Vocabulary.EOS, part);
                }
            }
        }
        processor.set("special_tokens", special);
        return bos || eos ? processor : null;
    }

    private void special(ArrayNode list, ObjectNode special, OptionalInt id, String key, int part)
            throws GgufException {
        if (id.isEmpty()) {
            throw vocabulary.metadata().wrong(key, "the id of a token, which is to be added to every text,");
        }
        String text = vocabulary.token(id.getAsInt());
        list.addObject().putObject("SpecialToken").put("id", text).put("type_id", part);
        ObjectNode entry = special.putObject(text).put("id", text);
        entry.putArray("ids").add(id.getAsInt());
        entry.putArray("tokens").add(text);
    }

    private void model(JsonGenerator out) throws IOException {
        Map<String, Integer> ids = vocabulary.ids();
        boolean sentencePiece = pre == null;
        out.writeObjectFieldStart("model");
        out.writeStringField(TYPE, "BPE");
        out.writeNullField("dropout");
        OptionalInt unknown = vocabulary.unknown();
        if (sentencePiece && unknown.isPresent()) {
            out.writeStringField("unk_token", vocabulary.token(unknown.getAsInt()));
        } else {
            out.writeNullField("unk_token");
        }
        out.writeNullField("continuing_subword_prefix");
        out.writeNullField("end_of_word_suffix");
        out.writeBooleanField("fuse_unk", sentencePiece);
        out.writeBooleanField("byte_fallback", sentencePiece);
        out.writeBooleanField("ignore_merges", pre != null && pre.ignoreMerges());
        out.writeObjectFieldStart("vocab");
        int duplicates = 0;
        for (int id = 0; id < vocabulary.size(); id++) {
            if (vocabulary.isPadding(id)) {
                continue;
            }
            if (ids.get(vocabulary.token(id)) == id) {
                out.writeNumberField(vocabulary.token(id), id);
            } else {
                duplicates++;
            }
        }
        out.writeEndObject();
        if (duplicates > 0) {
            notes.add(duplicates + " tokens are written as one before them and are left out");
        }
        out.writeArrayFieldStart("merges");
        for (String[] merge : sentencePiece && !vocabulary.metadata().has(Vocabulary.MERGES) ? scored(ids)
                : listed(ids)) {
            out.writeArray(merge, 0, merge.length);
        }
        out.writeEndArray();
        out.writeEndObject();
    }

    /** The merges of a SentencePiece vocabulary: control tokens, bytes and the unknown are not made of pieces. */
    private List<String[]> scored(Map<String, Integer> ids) throws GgufException {
        Map<String, Integer> pieces = new LinkedHashMap<>();
        ids.forEach((text, id) -> {
            Type type = vocabulary.type(id);
            if (type != Type.CONTROL && type != Type.BYTE && type != Type.UNKNOWN && !text.isEmpty()) {
                pieces.put(text, id);
            }
        });
        return SentencePieceMerges.of(pieces, vocabulary.scores());
    }

    /** The merges of the file: two tokens with a space between them. */
    private List<String[]> listed(Map<String, Integer> ids) throws GgufException {
        List<String[]> merges = new ArrayList<>();
        for (String merge : vocabulary.metadata().texts(Vocabulary.MERGES)) {
            // The first token may itself be a space, in files whose tokens are not byte-level.
            int space = merge.indexOf(' ', 1);
            String left = space < 0 ? "" : merge.substring(0, space);
            String right = space < 0 ? "" : merge.substring(space + 1);
            if (space < 0 || !ids.containsKey(left) || !ids.containsKey(right) || !ids.containsKey(left + right)) {
                throw new GgufException(Kind.BAD_VALUE, vocabulary.file(), Vocabulary.MERGES + " has "
                        + GgufException.quote(merge) + ", which are not two tokens that make a third");
            }
            merges.add(new String[]{left, right});
        }
        return merges;
    }
}
