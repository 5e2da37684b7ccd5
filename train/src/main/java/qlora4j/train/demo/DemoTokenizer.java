package qlora4j.train.demo;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Trains the bundled model's tokenizer: byte-level byte-pair encoding (Sennrich, Haddow, Birch 2016; bytes as in GPT-2), so
 * that any text can be encoded and no unknown token is needed. Token ids are {@code <|pad|>}, {@code <|eos|>}, the 256
 * bytes, then the merges in the order they were found. Written as Hugging Face files, which the runtime reads.
 *
 * @param merges the pairs of tokens that were joined, best first, in the printable alphabet of bytes
 */
public record DemoTokenizer(List<Merge> merges) {
    public static final String PAD = "<|pad|>";
    public static final String EOS = "<|eos|>";
    /** Tokens before any merge: two special ones and the bytes. */
    public static final int BASE_TOKENS = 2 + 256;

    /** A word with the space before it, one digit with the space before it, other signs likewise, line ends, spaces. */
    private static final String PIECES = " ?\\p{L}+| ?\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s*[\\r\\n]+|\\s+";

    private static final String CHAT_TEMPLATE = """
            {% for message in messages %}{% if message['role'] == 'user' %}### Instruction:
            {{ message['content'] }}

            {% elif message['role'] == 'assistant' %}### Response:
            {{ message['content'] }}{{ eos_token }}{% else %}\
            {{ raise_exception('the demo model knows the roles user and assistant, not ' + message['role']) }}\
            {% endif %}{% endfor %}{% if add_generation_prompt %}### Response:
            {% endif %}""";

    /** Two tokens that become one. */
    public record Merge(String left, String right) {
    }

    /** A distinct piece of the text: its tokens so far and how often it occurs. */
    private static final class Piece {
        private List<String> tokens;
        private long count;

        Piece(List<String> tokens) {
            this.tokens = tokens;
        }
    }

    /**
     * Learns merges from texts until there are {@code vocabSize} tokens. The most frequent pair is merged first, of
     * equally frequent ones the first in the order of their text, so that the result is a function of the texts alone.
     *
     * @throws IllegalArgumentException if {@code vocabSize} is below {@value #BASE_TOKENS} or the texts do not hold enough
     * different pairs
     */
    public static DemoTokenizer train(Stream<String> texts, int vocabSize) {
        if (vocabSize < BASE_TOKENS) {
            throw new IllegalArgumentException("a byte-level vocabulary has at least " + BASE_TOKENS + " tokens, "
                    + vocabSize + " were asked for");
        }
        List<Piece> pieces = pieces(texts);
        List<Merge> merges = new ArrayList<>();
        Set<String> joined = new HashSet<>(); // two merges may give the same token
        while (BASE_TOKENS + joined.size() < vocabSize) {
            Merge best = mostFrequent(pieces);
            if (best == null) {
                throw new IllegalArgumentException("the texts give only " + (BASE_TOKENS + joined.size())
                        + " tokens, not " + vocabSize + "; ask for fewer or give more text");
            }
            merges.add(best);
            joined.add(best.left() + best.right());
            for (Piece piece : pieces) {
                piece.tokens = merged(piece.tokens, best);
            }
        }
        return new DemoTokenizer(List.copyOf(merges));
    }

    private static List<Piece> pieces(Stream<String> texts) {
        Pattern pattern = Pattern.compile(PIECES, Pattern.UNICODE_CHARACTER_CLASS);
        Map<String, Piece> distinct = new TreeMap<>();
        texts.forEachOrdered(text -> {
            Matcher matcher = pattern.matcher(text);
            while (matcher.find()) {
                distinct.computeIfAbsent(matcher.group(), word -> new Piece(bytes(word))).count++;
            }
        });
        return List.copyOf(distinct.values());
    }

    private static List<String> bytes(String word) {
        List<String> tokens = new ArrayList<>();
        for (byte b : word.getBytes(StandardCharsets.UTF_8)) {
            tokens.add(printable(b & 0xff));
        }
        return tokens;
    }

    /** The pair that occurs most often, or null if all pieces are single tokens. */
    private static Merge mostFrequent(List<Piece> pieces) {
        Map<Merge, Long> counts = new LinkedHashMap<>();
        for (Piece piece : pieces) {
            for (int i = 1; i < piece.tokens.size(); i++) {
                counts.merge(new Merge(piece.tokens.get(i - 1), piece.tokens.get(i)), piece.count, Long::sum);
            }
        }
        Merge best = null;
        long most = 0;
        for (Map.Entry<Merge, Long> entry : counts.entrySet()) {
            long count = entry.getValue();
            if (count > most || count == most && precedes(entry.getKey(), best)) {
                best = entry.getKey();
                most = count;
            }
        }
        return best;
    }

    private static boolean precedes(Merge a, Merge b) {
        int left = a.left().compareTo(b.left());
        return left < 0 || left == 0 && a.right().compareTo(b.right()) < 0;
    }

    private static List<String> merged(List<String> tokens, Merge merge) {
        List<String> result = new ArrayList<>(tokens.size());
        for (int i = 0; i < tokens.size(); i++) {
            boolean here = i + 1 < tokens.size() && tokens.get(i).equals(merge.left())
                    && tokens.get(i + 1).equals(merge.right());
            result.add(here ? merge.left() + merge.right() : tokens.get(i));
            i += here ? 1 : 0;
        }
        return result;
    }

    /**
     * GPT-2's printable character for a byte: itself where it is a visible character of Latin-1, else the next unused one
     * from U+0100 on.
     */
    static String printable(int value) {
        int shifted = 0;
        for (int b = 0; b < value; b++) {
            shifted += visible(b) ? 0 : 1;
        }
        return String.valueOf((char) (visible(value) ? value : 0x100 + shifted));
    }

    private static boolean visible(int b) {
        return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae && b <= 0xff;
    }

    /** The vocabulary: each token's text in the printable alphabet, the index being its id. */
    public List<String> tokens() {
        List<String> tokens = new ArrayList<>(List.of(PAD, EOS));
        for (int b = 0; b < 256; b++) {
            tokens.add(printable(b));
        }
        merges.stream().map(merge -> merge.left() + merge.right()).distinct().forEach(tokens::add);
        return tokens;
    }

    /** Writes {@code tokenizer.json} and {@code tokenizer_config.json} (with a chat template) into a directory. */
    public void write(Path directory) throws IOException {
        Files.createDirectories(directory);
        Files.writeString(directory.resolve("tokenizer.json"), json(tokenizer()));
        Files.writeString(directory.resolve("tokenizer_config.json"), json(config()));
    }

    private static String json(Map<String, Object> map) throws JsonProcessingException {
        return new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT).writeValueAsString(map) + "\n";
    }

    private Map<String, Object> tokenizer() {
        List<String> tokens = tokens();
        Map<String, Object> vocabulary = new LinkedHashMap<>();
        for (int id = 0; id < tokens.size(); id++) {
            vocabulary.put(tokens.get(id), id);
        }
        Map<String, Object> model = map("type", "BPE", "dropout", null, "unk_token", null, "continuing_subword_prefix",
                null, "end_of_word_suffix", null, "fuse_unk", false, "byte_fallback", false, "ignore_merges", false,
                "vocab", vocabulary, "merges", merges.stream().map(m -> m.left() + " " + m.right()).toList());
        Map<String, Object> split = map("type", "Split", "pattern", map("Regex", PIECES), "behavior", "Isolated",
                "invert", false);
        Map<String, Object> bytes = map("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true,
                "use_regex", false);
        return map("version", "1.0", "truncation", null, "padding", null,
                "added_tokens", List.of(special(0, PAD), special(1, EOS)), "normalizer", null,
                "pre_tokenizer", map("type", "Sequence", "pretokenizers", List.of(split, bytes)),
                "post_processor", null, "decoder", bytes, "model", model);
    }

    private static Map<String, Object> special(int id, String content) {
        return map("id", id, "content", content, "single_word", false, "lstrip", false, "rstrip", false, "normalized",
                false, "special", true);
    }

    private static Map<String, Object> config() {
        return map("tokenizer_class", "PreTrainedTokenizerFast", "eos_token", EOS, "pad_token", PAD,
                "clean_up_tokenization_spaces", false, "chat_template", CHAT_TEMPLATE);
    }

    private static Map<String, Object> map(Object... keysAndValues) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < keysAndValues.length; i += 2) {
            map.put((String) keysAndValues[i], keysAndValues[i + 1]);
        }
        return map;
    }
}
