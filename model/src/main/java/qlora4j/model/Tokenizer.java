package qlora4j.model;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import ai.djl.huggingface.tokenizers.jni.CharSpan;
import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.stream.LongStream;
import qlora4j.template.Rendered;

/**
 * A model's tokenizer: its {@code tokenizer.json}, run by Hugging Face's tokenizers library through DJL, with the special
 * tokens of {@code tokenizer_config.json} (or the older {@code special_tokens_map.json}) and the chat template.
 *
 * <p>Texts are never cut to a length nor padded, whatever {@code tokenizer.json} says. {@code decode} is the library's:
 * transformers' {@code clean_up_tokenization_spaces} is not applied. The network is never used: DJL's offline mode and
 * its opt-out of tracking are switched on, and its CPU library chosen, unless the system properties or environment
 * variables that govern them are set.
 *
 * <p>Encoding, decoding and rendering may run on several threads at once; closing must wait for them.
 */
public final class Tokenizer implements AutoCloseable {
    /** The name of the file in a model directory. */
    public static final String FILE = "tokenizer.json";
    static final String CONFIG_FILE = "tokenizer_config.json";
    private static final String MAP_FILE = "special_tokens_map.json";
    private static final List<String> ROLES = List.of("bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
            "cls_token", "mask_token");

    static {
        // Read by DJL when it loads its native library, and by its call home before that.
        setUnlessSet("ai.djl.offline", "DJL_OFFLINE", "true");
        setUnlessSet("OPT_OUT_TRACKING", "OPT_OUT_TRACKING", "true");
        setUnlessSet("RUST_FLAVOR", "RUST_FLAVOR", "cpu");
    }

    private final Path directory;
    private final HuggingFaceTokenizer library;
    private final TokenizerVocabulary vocabulary;
    private final Map<String, SpecialToken> specials;
    private final ChatTemplates templates;
    /** A token that is one letter wherever it stands, for {@link #decodeInside}; -1 where there is none. */
    private final int anchor;
    private final String anchorText;
    private volatile boolean closed;

    private Tokenizer(Path directory, HuggingFaceTokenizer library, TokenizerVocabulary vocabulary,
            Map<String, SpecialToken> specials, ChatTemplates templates) {
        this.directory = directory;
        this.library = library;
        this.vocabulary = vocabulary;
        this.specials = specials;
        this.templates = templates;
        Map.Entry<String, Integer> letter = vocabulary.decodesPiecewise() ? anchor() : null;
        this.anchor = letter == null ? -1 : letter.getValue();
        this.anchorText = letter == null ? "" : letter.getKey();
    }

    private static void setUnlessSet(String property, String variable, String value) {
        if (System.getProperty(property) == null && System.getenv(variable) == null) {
            System.setProperty(property, value);
        }
    }

    /**
     * Opens the tokenizer of a model directory.
     *
     * @throws ModelFormatException if {@code tokenizer.json} is missing or malformed
     * @throws IOException if a file cannot be read
     */
    public static Tokenizer open(Path directory) throws IOException {
        Path file = directory.resolve(FILE);
        if (!Files.exists(file)) {
            throw new ModelFormatException(directory, "there is no " + FILE
                    + (Files.exists(directory.resolve("tokenizer.model"))
                            ? "; a tokenizer.model alone is not supported: load it once with transformers'"
                                    + " AutoTokenizer and save_pretrained, which writes one"
                            : ""));
        }
        JsonFile config = JsonFile.readIfPresent(directory.resolve(CONFIG_FILE));
        Map<String, String> texts = specialTexts(config, JsonFile.readIfPresent(directory.resolve(MAP_FILE)));
        TokenizerVocabulary vocabulary = TokenizerVocabulary.read(file, Set.copyOf(texts.values()));
        ChatTemplates templates = ChatTemplates.read(directory, config);
        Map<String, SpecialToken> specials = new LinkedHashMap<>();
        texts.forEach((role, text) -> specials.put(role, new SpecialToken(text, vocabulary.id(text))));
        try (InputStream in = Files.newInputStream(file)) {
            HuggingFaceTokenizer library = HuggingFaceTokenizer.newInstance(in,
                    Map.of("truncation", "false", "padding", "false"));
            return new Tokenizer(directory, library, vocabulary, specials, templates);
        } catch (RuntimeException e) {
            throw new ModelFormatException(file, "the tokenizers library refuses it: " + e.getMessage(), e);
        }
    }

    private static Map<String, String> specialTexts(JsonFile config, JsonFile map) throws ModelFormatException {
        Map<String, String> texts = new LinkedHashMap<>();
        for (String role : ROLES) {
            JsonFile from = config.has(role) ? config : map;
            JsonNode value = from.get(role);
            if (value == null) {
                continue;
            }
            JsonNode text = value.isObject() ? value.path("content") : value;
            if (!text.isTextual()) {
                throw from.error("\"" + role + "\" is " + value + "; a token's text is expected");
            }
            texts.put(role, text.textValue());
        }
        return texts;
    }

    private Map.Entry<String, Integer> anchor() {
        for (Map.Entry<String, Integer> letter : vocabulary.letters().entrySet()) {
            int id = letter.getValue();
            if (!vocabulary.isSpecial(id)
                    && library.decode(new long[]{id, id}, false).equals(letter.getKey().repeat(2))) {
                return letter;
            }
        }
        return null;
    }

    /**
     * The tokens of a text.
     *
     * @param addSpecialTokens whether the tokenizer adds its own, such as a BOS; a rendered chat has them already
     * @throws IllegalArgumentException if the text has half a surrogate pair, which no UTF-8 can hold
     * @throws IllegalStateException if {@code tokenizer.json} has a fault that shows only now
     */
    public int[] encode(String text, boolean addSpecialTokens) {
        checkOpen();
        return LongStream.of(run(text, addSpecialTokens).getIds()).mapToInt(Math::toIntExact).toArray();
    }

    private Encoding run(String text, boolean addSpecialTokens) {
        checkPairs(text);
        try {
            return library.encode(text, addSpecialTokens, false);
        } catch (RuntimeException e) {
            throw unusable(e);
        }
    }

    private static void checkPairs(String text) {
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (Character.isSurrogate(c)) {
                if (Character.isLowSurrogate(c) || i + 1 == text.length()
                        || !Character.isLowSurrogate(text.charAt(i + 1))) {
                    throw new IllegalArgumentException("the text has half a surrogate pair at index " + i);
                }
                i++;
            }
        }
    }

    /**
     * Tokens and the part of the text that each stands for, without those that the tokenizer adds by itself.
     *
     * @param ids    [N]
     * @param starts [N] the index in the text of the first {@code char} of each; of a character in several tokens, all
     *               have the whole of it
     * @param ends   [N] the index after the last
     */
    public record WithOffsets(int[] ids, int[] starts, int[] ends) {
    }

    /**
     * The tokens of a text as {@link #encode} gives them without special tokens, and where they stand in it.
     *
     * @throws IllegalArgumentException as {@link #encode}
     */
    public WithOffsets encodeWithOffsets(String text) {
        checkOpen();
        Encoding encoding = run(text, false);
        long[] ids = encoding.getIds();
        CharSpan[] spans = encoding.getCharTokenSpans();
        int[] starts = new int[ids.length];
        int[] ends = new int[ids.length];
        int last = 0;
        int points = 0;
        int index = 0;
        boolean plain = text.codePointCount(0, text.length()) == text.length();
        for (int i = 0; i < ids.length; i++) {
            if (spans[i] == null) {
                starts[i] = last;
                ends[i] = last;
                continue;
            }
            if (plain) {
                starts[i] = spans[i].getStart();
                ends[i] = spans[i].getEnd();
            } else {
                // The library counts code points; spans begin in the order of the text.
                index = text.offsetByCodePoints(index, spans[i].getStart() - points);
                points = spans[i].getStart();
                starts[i] = index;
                ends[i] = text.offsetByCodePoints(index, spans[i].getEnd() - points);
            }
            last = ends[i];
        }
        return new WithOffsets(LongStream.of(ids).mapToInt(Math::toIntExact).toArray(), starts, ends);
    }

    /**
     * The text of tokens.
     *
     * @param skipSpecial whether special tokens are left out
     * @throws IllegalArgumentException if the vocabulary lacks one of them
     * @throws IllegalStateException if {@code tokenizer.json} has a fault that shows only now
     */
    public String decode(int[] ids, boolean skipSpecial) {
        checkOpen();
        long[] wide = new long[ids.length];
        for (int i = 0; i < ids.length; i++) {
            check(ids[i]);
            wide[i] = ids[i];
        }
        try {
            return library.decode(wide, skipSpecial);
        } catch (RuntimeException e) {
            throw unusable(e);
        }
    }

    /** Some faults of a {@code tokenizer.json} show only when the library uses it. */
    private IllegalStateException unusable(RuntimeException e) {
        return new IllegalStateException(directory.resolve(FILE) + ": the tokenizers library cannot use it: "
                + e.getMessage(), e);
    }

    /** The text that tokens, none of them to be skipped, add somewhere after the beginning. */
    String decodeInside(int[] ids) {
        int[] anchored = new int[ids.length + 1];
        anchored[0] = anchor;
        System.arraycopy(ids, 0, anchored, 1, ids.length);
        String text = decode(anchored, false);
        if (!text.startsWith(anchorText)) {
            throw new IllegalStateException(directory + ": the token \"" + anchorText + "\" decodes to something else");
        }
        return text.substring(anchorText.length());
    }

    /** Text for tokens that arrive one by one. */
    public StreamingDecoder streamingDecoder(boolean skipSpecial) {
        checkOpen();
        return new StreamingDecoder(this, skipSpecial);
    }

    boolean decodesPiecewise() {
        return anchor >= 0;
    }

    void check(int id) {
        if (!vocabulary.contains(id)) {
            throw new IllegalArgumentException(
                    directory.resolve(FILE) + ": there is no token " + id + "; ids are below "
                            + vocabulary.size());
        }
    }

    private void checkOpen() {
        if (closed) {
            throw new IllegalStateException("the tokenizer of " + directory + " is closed");
        }
    }

    /** Whether the vocabulary has a token of this id; a model's embedding may have rows that no token uses. */
    public boolean contains(int id) {
        return vocabulary.contains(id);
    }

    /** Whether a token is special: left out where special tokens are skipped. */
    public boolean isSpecial(int id) {
        return vocabulary.isSpecial(id);
    }

    /** Whether a token stands for one byte of a character that the vocabulary lacks. */
    boolean isByte(int id) {
        return vocabulary.isByte(id);
    }

    /** One more than the largest id, added tokens included. */
    public int vocabSize() {
        return vocabulary.size();
    }

    /** The token that begins a text. */
    public Optional<SpecialToken> bos() {
        return special("bos_token");
    }

    /** The token that ends a text; see {@link GenerationConfig} for those that count in generation. */
    public Optional<SpecialToken> eos() {
        return special("eos_token");
    }

    /** The token that fills a batch. */
    public Optional<SpecialToken> pad() {
        return special("pad_token");
    }

    /** The token that stands for what the vocabulary lacks. */
    public Optional<SpecialToken> unk() {
        return special("unk_token");
    }

    private Optional<SpecialToken> special(String role) {
        return Optional.ofNullable(specials.get(role));
    }

    /** The id of {@link #eos()}, where there is one. */
    public OptionalInt eosId() {
        return eos().map(SpecialToken::id).orElse(OptionalInt.empty());
    }

    /** The names of the model's chat templates; the usual one is {@code default}. */
    public Set<String> chatTemplates() {
        return templates.names();
    }

    /** The texts of the model's chat templates by name. */
    public Map<String, String> chatTemplateSources() {
        return templates.sources();
    }

    /**
     * A conversation as the model's chat template writes it. It is encoded without special tokens: the template writes
     * them.
     *
     * @param messages the turns
     * @param addGenerationPrompt whether the beginning of the assistant's next turn follows
     * @throws IllegalStateException if the model has no chat template
     * @throws qlora4j.template.TemplateException if the template is malformed, or refuses the conversation
     */
    public String renderChat(List<Message> messages, boolean addGenerationPrompt) {
        return templates.get(ChatTemplates.DEFAULT).render(chatContext(messages, addGenerationPrompt));
    }

    /**
     * A conversation of messages with any fields, as transformers' {@code apply_chat_template} writes it.
     *
     * @param messages  the turns, each with {@code role} and {@code content} and what else the template knows
     * @param tools     descriptions of functions, or null
     * @param arguments more variables of the template
     * @return the text, and the parts of it that the template marks as the assistant's
     * @throws IllegalStateException if the model has no chat template
     * @throws qlora4j.template.TemplateException if the template is malformed, or refuses the conversation
     */
    public Rendered renderChat(List<? extends Map<String, ?>> messages, List<?> tools, Map<String, ?> arguments,
            boolean addGenerationPrompt) {
        return templates.get(ChatTemplates.DEFAULT)
                .renderWithSpans(chatContext(messages, tools, arguments, addGenerationPrompt));
    }

    /** Whether the chat template marks what the assistant says by {@code {% generation %}} blocks. */
    public boolean marksGeneration() {
        return templates.get(ChatTemplates.DEFAULT).marksGeneration();
    }

    /** As {@link #renderChat(List, boolean)} with another of {@link #chatTemplates()}. */
    public String renderChat(String template, List<Message> messages, boolean addGenerationPrompt) {
        return templates.get(template).render(chatContext(messages, addGenerationPrompt));
    }

    /**
     * The variables of a chat template, as transformers sets them: {@code messages}, {@code add_generation_prompt}, the
     * special tokens' texts by role, and {@code tools} and {@code documents}, which are null.
     */
    public Map<String, Object> chatContext(List<Message> messages, boolean addGenerationPrompt) {
        List<Map<String, String>> turns = new ArrayList<>();
        for (Message message : messages) {
            Map<String, String> turn = new LinkedHashMap<>();
            turn.put("role", message.role());
            turn.put("content", message.content());
            turns.add(turn);
        }
        return chatContext(turns, null, Map.of(), addGenerationPrompt);
    }

    private Map<String, Object> chatContext(List<? extends Map<String, ?>> messages, List<?> tools,
            Map<String, ?> arguments, boolean addGenerationPrompt) {
        Map<String, Object> context = new HashMap<>();
        specials.forEach((role, token) -> context.put(role, token.text()));
        context.putAll(arguments);
        context.put("messages", messages);
        context.put("add_generation_prompt", addGenerationPrompt);
        context.put("tools", tools);
        context.putIfAbsent("documents", null);
        return context;
    }

    @Override
    public void close() {
        if (!closed) {
            closed = true;
            library.close();
        }
    }
}
