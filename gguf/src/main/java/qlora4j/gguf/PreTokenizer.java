package qlora4j.gguf;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;

/**
 * How byte-level tokenizers cut a text into words: the kinds that {@code tokenizer.ggml.pre} names (llama-vocab.cpp), as
 * the {@code tokenizer.json} of the models they come from has them.
 *
 * @param names what a file may call it; the first is what is written
 * @param steps expressions that split the text one after another; {@link #DIGITS} cuts out each digit, {@link #GPT2}
 *     is the byte-level step's own
 * @param ignoreMerges whether a word that is in the vocabulary is taken whole
 * @param addBos whether a text begins with BOS where the file does not say
 * @param composed whether the text is composed first (Unicode's NFC)
 */
record PreTokenizer(List<String> names, List<String> steps, boolean ignoreMerges, boolean addBos, boolean composed) {
    private static final String DIGITS = "digits";
    private static final String GPT2 = "gpt2";
    private static final String CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private static final String WORDS = "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|";
    private static final String REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    private static final String LLAMA3 = CONTRACTIONS + WORDS + "\\p{N}{1,3}" + REST;
    private static final String QWEN2 = CONTRACTIONS + WORDS + "\\p{N}" + REST;
    private static final String UPPER = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
            + "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+";
    private static final String LOWER = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
            + "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*";
    private static final String SLASHES = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    private static final String TEKKEN = UPPER + "|" + LOWER + "|\\p{N}" + SLASHES;
    private static final String GPT4O = UPPER + CONTRACTIONS + "?|" + LOWER + CONTRACTIONS + "?|\\p{N}{1,3}" + SLASHES;
    private static final String DEEPSEEK3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            + "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    private static final String HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

    /**
     * Read as transformers reads such a file, without the cut at each digit that llama.cpp makes: no token of SmolLM's
     * vocabulary holds a digit and another letter, so ids differ only where several spaces stand before a digit, or
     * where a digit is of another script. {@code command-r} is the kind that cuts.
     */
    static final String SMOLLM = "smollm";

    private static final List<PreTokenizer> KNOWN = List.of(
            of(List.of(GPT2), false, false, false, "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "mellum",
                    "a.x-4.0", "modern-bert", "mpt", "olmo", "jais", "trillion", "exaone4", SMOLLM),
            // The first is the one of these after whose tokens llama.cpp takes no spaces away.
            of(List.of(DIGITS, GPT2), false, false, false, "command-r", "starcoder", "refact", "codeshell", "exaone",
                    "minerva-7b"),
            of(List.of(LLAMA3), true, true, false, "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral",
                    "midm-2.0", "lfm2"),
            of(List.of(LLAMA3), false, false, false, "smaug-bpe", "dbrx"),
            of(List.of(QWEN2), false, false, true, "qwen2", "deepseek-r1-qwen", "kormo", "megrez"),
            of(List.of(QWEN2), false, false, false, "stablelm2", "hunyuan"),
            of(List.of(TEKKEN), true, true, false, "tekken"),
            of(List.of(GPT4O), false, false, false, "gpt-4o", "llama4", "kanana2"),
            of(List.of("\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3), false, false, false,
                    "deepseek-v3", "hunyuan-dense"),
            of(List.of("[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN, "\\p{N}"), false, false, false,
                    "deepseek-coder"),
            of(List.of("[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"), false, false, false,
                    "default"));

    private static PreTokenizer of(List<String> steps, boolean ignoreMerges, boolean addBos, boolean composed,
            String... names) {
        return new PreTokenizer(List.of(names), steps, ignoreMerges, addBos, composed);
    }

    /** The kind of a name, or null. */
    static PreTokenizer named(String name) {
        return KNOWN.stream().filter(p -> p.names.contains(name)).findFirst().orElse(null);
    }

    /** The names of all kinds, one of each. */
    static List<String> known() {
        return KNOWN.stream().map(PreTokenizer::name).toList();
    }

    /** What the kind is called in a file that is written. */
    String name() {
        return names.getFirst();
    }

    /** The {@code pre_tokenizer} of a {@code tokenizer.json}. */
    ObjectNode toJson() {
        JsonNodeFactory json = JsonNodeFactory.instance;
        List<ObjectNode> nodes = new ArrayList<>();
        boolean own = steps.getLast().equals(GPT2);
        for (String step : own ? steps.subList(0, steps.size() - 1) : steps) {
            ObjectNode node = json.objectNode();
            if (step.equals(DIGITS)) {
                node.put("type", "Digits").put("individual_digits", true);
            } else {
                node.put("type", "Split").putObject("pattern").put("Regex", step.equals(GPT2) ? GPT2_EXPRESSION : step);
                node.put("behavior", "Isolated").put("invert", false);
            }
            nodes.add(node);
        }
        nodes.add(json.objectNode().put("type", "ByteLevel").put("add_prefix_space", false).put("trim_offsets", true)
                .put("use_regex", own));
        if (nodes.size() == 1) {
            return nodes.getFirst();
        }
        ObjectNode sequence = json.objectNode().put("type", "Sequence");
        ArrayNode list = sequence.putArray("pretokenizers");
        nodes.forEach(list::add);
        return sequence;
    }

    /** What the byte-level step's own expression is (tokenizers, {@code byte_level.rs}). */
    private static final String GPT2_EXPRESSION = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
            + "|\\s+(?!\\S)|\\s+";

    /**
     * The kind of a {@code tokenizer.json}; null where it is none of the known ones.
     *
     * @param node its {@code pre_tokenizer}
     * @param ignoreMerges its model's setting
     * @param composed whether its normalizer is NFC
     */
    static PreTokenizer of(JsonNode node, boolean ignoreMerges, boolean composed) {
        List<String> steps = new ArrayList<>();
        for (JsonNode step : node.path("type").asText().equals("Sequence") ? node.path("pretokenizers")
                : List.of(node)) {
            switch (step.path("type").asText()) {
                case "Digits" -> steps.add(step.path("individual_digits").asBoolean() ? DIGITS : "");
                case "Split" -> steps.add(step.path("behavior").asText().equals("Isolated")
                        && !step.path("invert").asBoolean() ? step.path("pattern").path("Regex").asText() : "");
                case "ByteLevel" -> {
                    if (step.path("add_prefix_space").asBoolean()) {
                        return null;
                    }
                    if (step.path("use_regex").asBoolean(true)) {
                        steps.add(GPT2);
                    }
                }
                default -> {
                    return null;
                }
            }
        }
        List<String> written = steps.stream().map(s -> s.equals(GPT2_EXPRESSION) ? GPT2 : s).toList();
        List<PreTokenizer> fitting = KNOWN.stream().filter(p -> p.steps.equals(written)
                && p.ignoreMerges == ignoreMerges).toList();
        return fitting.stream().filter(p -> p.composed == composed).findFirst()
                .orElse(fitting.isEmpty() ? null : fitting.getFirst());
    }
}
