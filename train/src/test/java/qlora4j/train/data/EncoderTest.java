package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.arbitraries.StringArbitrary;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

class EncoderTest {
    private static final PromptTemplate PLAIN = PromptTemplate.byForm();

    private static TokenizedRow one(TextEncoder tokenizer, int maxLength, PromptTemplate template, Row row) {
        return new Encoder(tokenizer, Samples.EOS, maxLength).encode(List.of(row), template).rows().getFirst();
    }

    private static String text(TokenizedRow row) {
        return Samples.text(row.ids(), 0, row.length());
    }

    @Test
    void bosPromptCompletionEos() {
        TokenizedRow row = one(Samples.TOKENIZER, 100, PLAIN, Samples.pair("ab", "cd"));
        assertThat(text(row)).isEqualTo("\u0001abcd\u0002");
        assertThat(row.promptLength()).isEqualTo(3);
        assertThat(row.labelTokens()).isEqualTo(3);
        assertThat(row.promptCut()).isZero();
    }

    @Test
    void bosOnlyIfTheTokenizerAddsIt() {
        TextEncoder without = (text, _) -> Samples.TOKENIZER.encode(text, false);
        assertThat(text(one(without, 100, PLAIN, Samples.pair("ab", "cd")))).isEqualTo("abcd\u0002");
    }

    @Test
    void bosOnceWhereThePromptSpellsItOut() {
        assertThat(text(one(Samples.TOKENIZER, 100, PLAIN, Samples.pair("\u0001ab", "cd"))))
                .isEqualTo("\u0001abcd\u0002");
        assertThat(text(one(Samples.TOKENIZER, 5, PLAIN, Samples.pair("\u0001ab", "cd")))).isEqualTo("\u0001bcd\u0002");
        assertThat(text(one(Samples.TOKENIZER, 100, PLAIN, Samples.pair("\u0001", "cd")))).isEqualTo("\u0001cd\u0002");
    }

    @Test
    void whatATokenizerAddsBehindATextIsNotForAPrompt() {
        TextEncoder both = (text, add) -> Samples.TOKENIZER.encode(add ? text + Samples.EOS_TEXT : text, add);
        assertThat(text(one(both, 100, PLAIN, Samples.pair("ab", "cd")))).isEqualTo("\u0001abcd\u0002");
    }

    @Test
    void aTokenizerThatRewritesItsTextIsRefused() {
        TextEncoder odd = (text, add) -> Samples.TOKENIZER.encode(add ? text.toUpperCase(Locale.ROOT) : text, add);
        assertThatThrownBy(() -> new Encoder(odd, Samples.EOS, 9)).isInstanceOf(DataException.class)
                .hasMessageContaining("[97]").hasMessageContaining("[1, 65]");
    }

    @Test
    void aChatTemplateWritesItsOwnBosAndEos() throws IOException {
        PromptTemplate chat = PromptTemplate.of("chat", Samples.CHAT);
        TokenizedRow row = one(Samples.TOKENIZER, 100, chat, Samples.pair("ab", "cd"));
        assertThat(text(row)).isEqualTo("\u0001<user>\nab\u0002\n<assistant>\ncd\u0002");
        assertThat(Samples.text(row.ids(), row.promptLength(), row.length())).isEqualTo("cd\u0002");
        PromptTemplate bare = PromptTemplate.of("chat",
                Samples.chat((talk, ask) -> talk.messages().getFirst().get("content")
                        + (ask ? "" : talk.messages().get(1).get("content") + "\n")));
        assertThat(text(one(Samples.TOKENIZER, 100, bare, Samples.pair("ab", "cd")))).as("no BOS, EOS, space kept")
                .isEqualTo("abcd\n\u0002");
    }

    @Test
    void aChatPromptThatIsCutKeepsItsBos() throws IOException {
        PromptTemplate chat = PromptTemplate.of("chat", Samples.CHAT);
        TokenizedRow row = one(Samples.TOKENIZER, 8, chat, Samples.pair("ab", "cd"));
        assertThat(text(row)).isEqualTo("\u0001nt>\ncd\u0002");
    }

    @Test
    void eosIsNotDoubled() {
        assertThat(text(one(Samples.TOKENIZER, 100, PLAIN, Samples.pair("ab", "cd<end>"))))
                .isEqualTo("\u0001abcd\u0002");
    }

    @Test
    void cutsThePromptAndNeverTheAnswer() {
        Row row = Samples.pair("abcdef", "xyz");
        assertThat(text(one(Samples.TOKENIZER, 11, PLAIN, row))).isEqualTo("\u0001abcdefxyz\u0002");
        assertThat(text(one(Samples.TOKENIZER, 10, PLAIN, row))).isEqualTo("\u0001bcdefxyz\u0002");
        assertThat(text(one(Samples.TOKENIZER, 6, PLAIN, row))).isEqualTo("\u0001fxyz\u0002");
        TokenizedRow bosLeft = one(Samples.TOKENIZER, 5, PLAIN, row);
        assertThat(text(bosLeft)).isEqualTo("\u0001xyz\u0002");
        assertThat(bosLeft.promptCut()).isEqualTo(6);
        assertThatThrownBy(() -> one(Samples.TOKENIZER, 4, PLAIN, row)).isInstanceOf(DataException.class)
                .hasMessageContaining("no row is left").hasMessageContaining("--max-seq-length 4")
                .hasMessageContaining("here");
    }

    @Test
    void reportsWhatBecameOfTheData() {
        TextEncoder mute = (text, add) -> Samples.TOKENIZER.encode(text.replace("?", ""), add);
        List<Row> rows =
                List.of(Samples.pair("ab", "c"), Samples.pair("abcdefgh", "ij"), Samples.pair("a", "bcdefghij"),
                        Samples.pair("a", "???"));
        TokenizedData data = new Encoder(mute, Samples.EOS, 8).encode(rows, PLAIN);
        assertThat(data.sources()).containsExactly(rows.get(0), rows.get(1));
        assertThat(data.report()).isEqualTo(new DataReport(8, 4, 2, 1, List.of("here"), List.of("here"), 13, 5));
        assertThat(data.report().summary())
                .isEqualTo("4 rows: 2 kept (1 without the beginning of their prompt), 1 dropped"
                        + " because the completion alone fills 8 tokens, 1 dropped because the completion has no tokens"
                        + "; 13 tokens, 5 of them trained");
    }

    @Test
    void refusesLengthsAndIdsThatCannotBe() {
        assertThatThrownBy(() -> new Encoder(Samples.TOKENIZER, -1, 9)).hasMessageContaining("-1");
        assertThatThrownBy(() -> new Encoder(Samples.TOKENIZER, 2, 1)).hasMessageContaining("--max-seq-length");
        assertThatThrownBy(() -> new TokenizedRow(new int[]{1, 2}, 2, 0)).hasMessageContaining("a completion");
        assertThatThrownBy(() -> new TokenizedRow(new int[]{1}, 0, 0)).hasMessageContaining("two tokens");
    }

    @Property(tries = 300)
    void keepsTailOfPromptAndAllOfTheAnswerOrDropsTheRow(@ForAll("pairs") List<Row.PromptCompletion> pairs,
            @ForAll @IntRange(min = 3, max = 40) int maxLength, @ForAll boolean addsBos) {
        TextEncoder tokenizer = (text, add) -> Samples.TOKENIZER.encode(text, add && addsBos);
        List<Row> all = new ArrayList<>(pairs);
        all.add(Samples.pair("p", "")); // without tokens, whatever the length
        all.add(Samples.pair("q", "r"));
        TokenizedData data = new Encoder(tokenizer, Samples.EOS, maxLength).encode(all, PLAIN);

        DataReport report = data.report();
        assertThat(report.kept() + report.dropped()).isEqualTo(all.size());
        assertThat(data.sources()).isEqualTo(all.stream().map(Row.PromptCompletion.class::cast)
                .filter(row -> !row.completion().isEmpty() && row.completion().length() + 1 < maxLength).toList());
        String bos = addsBos ? "\u0001" : "";
        long labels = 0;
        for (int i = 0; i < data.rows().size(); i++) {
            TokenizedRow row = data.rows().get(i);
            Row.PromptCompletion source = (Row.PromptCompletion) data.sources().get(i);
            String answer = source.completion() + "\u0002";
            int room = Math.max(0, maxLength - answer.length() - bos.length());
            String tail = source.prompt().substring(Math.max(0, source.prompt().length() - room));
            assertThat(text(row)).isEqualTo(bos + tail + answer);
            assertThat(row.promptCut()).isEqualTo(source.prompt().length() - tail.length());
            // Nothing stands before the first token of all, so nothing predicts it.
            assertThat(labelled(row)).isEqualTo(row.promptLength() == 0 ? answer.substring(1) : answer);
            assertThat(row.labelTokens()).isEqualTo(labelled(row).length()).isPositive();
            labels += row.labelTokens();
        }
        assertThat(report.labelTokens()).isEqualTo(labels);
        assertThat(report.tokens()).isEqualTo(data.rows().stream().mapToInt(TokenizedRow::length).sum());
    }

    /** The labels of a row, each of which must be the token that follows. */
    private static String labelled(TokenizedRow row) {
        int[] labels = new int[row.length()];
        int count = 0;
        for (int i = 0; i < row.length(); i++) {
            if (row.label(i) != TokenizedRow.IGNORED) {
                assertThat(row.label(i)).isEqualTo(row.ids()[i + 1]);
                labels[count++] = row.label(i);
            }
        }
        return Samples.text(Arrays.copyOf(labels, count), 0, count);
    }

    @Provide
    Arbitrary<List<Row.PromptCompletion>> pairs() {
        StringArbitrary letters = Arbitraries.strings().withCharRange('a', 'z').ofMaxLength(50);
        return Combinators.combine(letters, letters.ofMinLength(1))
                .as((prompt, completion) -> (Row.PromptCompletion) Samples.pair(prompt, completion)).list()
                .ofMaxSize(12);
    }
}
