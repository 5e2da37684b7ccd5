package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class PromptTemplateTest {
    private static final Row.Alpaca BARE = Samples.alpaca("Do it.", "", "Done.");
    private static final Row.Alpaca WITH_INPUT = Samples.alpaca("Add.", "1 and 2", "3");
    private static final Row PAIR = Samples.pair("Once", " upon a time.");

    @TempDir
    Path folder;

    private static PromptTemplate named(String name) throws IOException {
        return PromptTemplate.of(name, Samples.CHAT);
    }

    /** What a template splits a row into. */
    private record Split(String prompt, String completion) {
        static Split of(PromptTemplate template, Row row) {
            Example example = template.apply(row);
            assertThat(example.prompt() + example.completion()).isEqualTo(example.text());
            assertThat(template.explain(row).text()).isEqualTo(example.text());
            return new Split(example.prompt(), example.completion());
        }
    }

    private PromptTemplate file(String text) throws IOException {
        return named(Files.writeString(folder.resolve("mine.jinja"), text).toString());
    }

    @Test
    void alpacaIsThePublishedPrompt() throws IOException {
        assertThat(Split.of(named("alpaca"), BARE)).isEqualTo(new Split(
                """
                        Below is an instruction that describes a task. Write a response that appropriately completes \
                        the request.

                        ### Instruction:
                        Do it.

                        ### Response:""",
                "Done."));
        assertThat(Split.of(named("alpaca"), WITH_INPUT)).isEqualTo(new Split(
                "Below is an instruction that describes a task, paired with an input that provides further context. "
                        + "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n"
                        + "### Input:\n1 and 2\n\n### Response:",
                "3"));
    }

    @Test
    void reversedAsksForTheInstruction() throws IOException {
        assertThat(Split.of(named("alpaca-reversed"), BARE))
                .isEqualTo(new Split("### Response:\nDone.\n\n### Instruction:\n", "Do it."));
        assertThat(Split.of(named("alpaca-reversed"), WITH_INPUT))
                .isEqualTo(new Split("### Response:\n3\n\n### Instruction:\n", "Add.\n\n1 and 2"));
    }

    @Test
    void chatTakesWhatTheConversationAddsToItsPrompt() throws IOException {
        assertThat(Split.of(named("chat"), WITH_INPUT)).isEqualTo(
                new Split("\u0001<user>\nAdd.\n\n1 and 2<end>\n<assistant>\n", "3<end>"));
        assertThat(Split.of(named("chat"), PAIR)).isEqualTo(
                new Split("\u0001<user>\nOnce<end>\n<assistant>\n", " upon a time.<end>"));
        assertThat(named("chat").apply(PAIR).specials()).isTrue();
    }

    @Test
    void chatNeedsATemplateWhosePromptBeginsItsConversation() throws IOException {
        assertThatThrownBy(() -> PromptTemplate.of("chat", null)).isInstanceOf(DataException.class)
                .hasMessage("--template chat: the model has no chat template");
        PromptTemplate thinking = PromptTemplate.of("chat",
                Samples.chat((chat, ask) -> chat.messages().getFirst().get("content")
                        + (ask ? "\n<think>\n" : "\n" + chat.messages().get(1).get("content"))));
        assertThatThrownBy(() -> thinking.apply(PAIR)).isInstanceOf(DataException.class)
                .hasMessageContaining("does not begin with its own prompt")
                .hasMessageContaining("here: \"<think>\\n\"");
        PromptTemplate forgetful = PromptTemplate.of("chat",
                Samples.chat((chat, _) -> (String) chat.messages().getFirst().get("content")));
        assertThatThrownBy(() -> forgetful.apply(PAIR)).isInstanceOf(DataException.class)
                .hasMessageContaining("leaves the answer out (here)");
    }

    @ParameterizedTest
    @ValueSource(strings = {"alpaca", "alpaca-reversed"})
    void alpacaRefusesPromptAndCompletionAndNamesTheFlag(String name) throws IOException {
        PromptTemplate template = named(name);
        assertThatThrownBy(() -> template.apply(PAIR)).isInstanceOf(DataException.class)
                .hasMessageContaining("--template " + name + " needs rows of instruction").hasMessageContaining("here");
    }

    @Test
    void withoutTheFlagTheRowsFormDecides() throws IOException {
        assertThat(Split.of(PromptTemplate.byForm(), PAIR)).isEqualTo(new Split("Once", " upon a time."));
        assertThat(Split.of(PromptTemplate.byForm(), WITH_INPUT)).isEqualTo(Split.of(named("alpaca"), WITH_INPUT));
        assertThat(PromptTemplate.byForm().apply(PAIR).specials()).isFalse();
    }

    @Test
    void aFileMarksWhatIsLearned() throws IOException {
        PromptTemplate template = file("""
                Q: {{ instruction }}
                {% if input %}
                With: {{ input }}
                {% endif %}
                A: {% generation %}{{ output }}{% endgeneration %}
                """);
        assertThat(Split.of(template, WITH_INPUT)).isEqualTo(new Split("Q: Add.\nWith: 1 and 2\nA: ", "3"));
        assertThat(Split.of(template, BARE)).isEqualTo(new Split("Q: Do it.\nA: ", "Done."));
        assertThat(template.apply(BARE).specials()).isFalse();
    }

    @Test
    void aFileReadsEveryFieldAndTextIsNeverCode() throws IOException {
        PromptTemplate template = file("{{ source.page }}: {% generation %}{{ output }}{% endgeneration %}");
        assertThat(Split.of(template, Samples.rows("alpaca.jsonl").get(2))).isEqualTo(new Split("12: ", "8"));
        PromptTemplate echo = file("\uFEFF{{ instruction }}{% generation %}{{ output }}{% endgeneration %}");
        assertThat(Split.of(echo, Samples.alpaca("{{ 1 + 1 }}", "", "{% generation %}")))
                .isEqualTo(new Split("{{ 1 + 1 }}", "{% generation %}"));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|',
            textBlock = """
                    {{ output }} | but 0 were rendered (here)
                    {% for c in 'ab' %}{% generation %}{{ c }}{% endgeneration %}{% endfor %} | but 2 were rendered
                    {% generation %}{{ output }}{% endgeneration %} bye | text follows {% endgeneration %}
                    {{ output }}{% generation %}{{ outptu }}{% endgeneration %} | block is empty
                    {{ output.a.b }}{% generation %}{{ output }}{% endgeneration %} | mine.jinja, line 1:
                    {{ output | mine.jinja, line 1:
                    """)
    void aFileThatDoesNotServeIsNamed(String text, String problem) {
        assertThatThrownBy(() -> file(text).apply(BARE)).isInstanceOf(DataException.class)
                .hasMessageStartingWith("--template ").hasMessageContaining("mine.jinja").hasMessageContaining(problem);
    }

    @Test
    void aNameThatIsNothingListsWhatThereIs() {
        assertThatThrownBy(() -> named("alpacca")).isInstanceOf(DataException.class).hasMessage(
                "--template alpacca: neither a file nor one of alpaca, alpaca-reversed, chat");
    }
}
