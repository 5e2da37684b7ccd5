package qlora4j.train.demo;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.StringLength;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.train.demo.DemoTokenizer.Merge;

class DemoTokenizerTest {
    private static final DemoTokenizer TRAINED = DemoTokenizer.train(DemoCorpus.documents(1).limit(4000), 640);
    private static final HuggingFaceTokenizer RUNTIME = open(TRAINED);

    private static HuggingFaceTokenizer open(DemoTokenizer trained) {
        try {
            Path directory = Files.createTempDirectory("demo-tokenizer");
            trained.write(directory);
            Path file = directory.resolve("tokenizer.json");
            HuggingFaceTokenizer opened = HuggingFaceTokenizer.newInstance(file,
                    Map.of("truncation", "false", "addSpecialTokens", "false"));
            Files.delete(file);
            Files.delete(directory.resolve("tokenizer_config.json"));
            Files.delete(directory);
            return opened;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Of "aab aab ab": the pairs (a, b) 3, (a, a) 2, (space, a) 2; then (a, ab) 2 and (space, aab) 1, (space, ab) 1. */
    @Test
    void mergesTheMostFrequentPairFirstAndOfEqualOnesTheFirst() {
        DemoTokenizer trained = DemoTokenizer.train(Stream.of("aab aab ab"), DemoTokenizer.BASE_TOKENS + 4);
        assertThat(trained.merges()).containsExactly(new Merge("a", "b"), new Merge("a", "ab"),
                new Merge("\u0120", "aab"), new Merge("\u0120", "ab"));
        assertThat(trained.tokens()).hasSize(DemoTokenizer.BASE_TOKENS + 4).startsWith("<|pad|>", "<|eos|>", "\u0100")
                .endsWith("ab", "aab", "\u0120aab", "\u0120ab");
    }

    @Test
    void saysWhenTheTextIsTooSmallOrTheVocabularyToo() {
        assertThatThrownBy(() -> DemoTokenizer.train(Stream.of("aab"), 300))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("only 260 tokens, not 300");
        assertThatThrownBy(() -> DemoTokenizer.train(Stream.of("aab"), 200))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("at least 258");
    }

    @Test
    void aSecondTrainingWritesTheSameFiles(@TempDir Path first, @TempDir Path second) throws IOException {
        TRAINED.write(first);
        DemoTokenizer.train(DemoCorpus.documents(1).limit(4000), 640).write(second);
        for (String name : List.of("tokenizer.json", "tokenizer_config.json")) {
            assertThat(second.resolve(name)).hasSameBinaryContentAs(first.resolve(name));
        }
    }

    @Test
    void digitsStandAloneAndAWordKeepsItsSpace() {
        List<String> words = List.of(" 1", "2", " 7");
        long[] ids = RUNTIME.encode(" 12 7").getIds();
        assertThat(ids).as("tokens of ' 12 7'").hasSize(words.size());
        for (int i = 0; i < ids.length; i++) {
            assertThat(RUNTIME.decode(new long[]{ids[i]})).isEqualTo(words.get(i));
        }
        assertThat(RUNTIME.encode(" words").getIds()).hasSize(1);
        assertThat(RUNTIME.encode("<|eos|>").getIds()).containsExactly(1);
        assertThat(RUNTIME.encode("<|pad|>").getIds()).containsExactly(0);
    }

    @Test
    void theGeneratorsTextRoundTrips() {
        DemoCorpus.documents(9).limit(500)
                .forEach(text -> assertThat(RUNTIME.decode(RUNTIME.encode(text).getIds())).isEqualTo(text));
    }

    /** Of all strings but those with a lone surrogate, which no UTF-8 text has. */
    @Property(tries = 500)
    void anyTextRoundTrips(@ForAll @StringLength(max = 40) String drawn) {
        String text =
                drawn.replaceAll("[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]", "?");
        assertThat(RUNTIME.decode(RUNTIME.encode(text).getIds())).isEqualTo(text);
    }
}
