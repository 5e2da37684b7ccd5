package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Conversations from their rows to their labels, on the tokenizer of one token a character. */
class ConversationTest {
    private static final String TWO_TURNS = "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"},"
            + "{\"role\":\"assistant\",\"content\":\"cd\"},{\"role\":\"user\",\"content\":\"ef\"},"
            + "{\"role\":\"assistant\",\"content\":\"gh\"}]}";

    @TempDir
    Path folder;

    private List<Row> rows(String... lines) throws IOException {
        return Rows.read(Files.write(folder.resolve("x.jsonl"), List.of(lines)));
    }

    private static Chat chat(Row row) {
        return ((Row.Conversation) row).chat();
    }

    private static TokenizedData encode(List<Row> rows, LossOn loss, int maxLength) {
        return new Encoder(Samples.TOKENIZER, Samples.EOS, maxLength).encode(rows,
                PromptTemplate.byForm(Samples.CHAT, loss));
    }

    /** The learned tokens, runs apart. */
    private static String learned(TokenizedRow row) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < row.length(); i++) {
            boolean begins = row.learned(i) && !row.learned(i - 1);
            text.append(begins && !text.isEmpty() ? "|" : "").append(row.learned(i) ? (char) row.ids()[i] : "");
        }
        return text.toString();
    }

    private static String learned(List<Row> rows, LossOn loss) {
        return learned(encode(rows, loss, 200).rows().getFirst());
    }

    @Test
    void lastAnswerAllAnswersOrAll() throws IOException {
        List<Row> rows = rows(TWO_TURNS);
        assertThat(learned(rows, LossOn.COMPLETION)).isEqualTo("gh\u0002");
        assertThat(learned(rows, LossOn.ASSISTANT)).isEqualTo("cd\u0002|gh\u0002");
        assertThat(learned(rows, LossOn.ALL)).isEqualTo("<user>\nab\u0002\n<assistant>\ncd\u0002\n<user>\nef\u0002\n"
                + "<assistant>\ngh\u0002");
        TokenizedRow row = encode(rows, LossOn.ASSISTANT, 200).rows().getFirst();
        assertThat(row.ids()).as("BOS once").startsWith(1, '<').endsWith('h', 2);
        assertThat(row.labelTokens()).isEqualTo(6);
        int labels = 0;
        for (int i = 0; i < row.length(); i++) {
            labels += row.label(i) == TokenizedRow.IGNORED ? 0 : 1;
            assertThat(row.label(i)).isEqualTo(row.learned(i + 1) ? row.ids()[i + 1] : TokenizedRow.IGNORED);
        }
        assertThat(labels).isEqualTo(6);
        Batch batch = Batches.inOrder(List.of(row, row), 2).getFirst();
        assertThat(batch.labelTokens()).isEqualTo(12);
    }

    @Test
    void shareGptIsTheSameConversation() throws IOException {
        Row shared = rows("{\"system\":\"be\",\"conversations\":[{\"from\":\"human\",\"value\":\"ab\"},"
                + "{\"from\":\"gpt\",\"value\":\"cd\"}]}").getFirst();
        assertThat(chat(shared).messages()).containsExactly(Map.of("role", "system", "content", "be"),
                Map.of("role", "user", "content", "ab"), Map.of("role", "assistant", "content", "cd"));
        Row calls = rows("{\"conversations\":[{\"from\":\"human\",\"value\":\"t?\"},{\"from\":\"function_call\","
                + "\"value\":\"{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{}}\"},{\"from\":\"observation\",\"value\":\"3\"},"
                + "{\"from\":\"gpt\",\"value\":\"3.\"}],\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\"}").getFirst();
        assertThat(chat(calls).messages().get(1)).containsEntry("role", "assistant").containsEntry("tool_calls",
                List.of(
                        Map.of("type", "function", "function", Map.of("name", "f", "arguments", Map.of()))));
        assertThat(chat(calls).messages().get(2)).containsEntry("role", "tool");
        assertThat(chat(calls).tools()).containsExactly(Map.of("name", "f"));
    }

    @Test
    void promptAndCompletionMayBeMessages() throws IOException {
        String prompt =
                "{\"prompt\":[{\"role\":\"user\",\"content\":\"ab\"},{\"role\":\"assistant\",\"content\":\"x\"},"
                        + "{\"role\":\"user\",\"content\":\"ef\"}],\"completion\":";
        List<Row> rows = rows(prompt + "[{\"role\":\"assistant\",\"content\":\"gh\"}]}", prompt + "\"gh\"}");
        assertThat(rows).allSatisfy(row -> {
            assertThat(((Row.Conversation) row).given()).isEqualTo(3);
            assertThat(learned(List.of(row), LossOn.COMPLETION)).isEqualTo("gh\u0002");
            assertThat(learned(List.of(row), LossOn.ASSISTANT)).as("of the completion, as in TRL")
                    .isEqualTo("gh\u0002");
        });
        List<Row> two =
                rows("{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":[{\"role\":\"assistant\","
                        + "\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\"}]}");
        assertThat(learned(two, LossOn.COMPLETION)).isEqualTo("b\u0002\n<user>\nc\u0002\n<assistant>\nd\u0002");
        assertThat(learned(two, LossOn.ASSISTANT)).isEqualTo("b\u0002|d\u0002");
    }

    @Test
    void whatIsLeftOutIsCounted() throws IOException {
        List<Row> rows = rows(TWO_TURNS, "{\"messages\":[{\"role\":\"user\",\"content\":\"nobody answers\"}]}",
                TWO_TURNS.replace("]}", ",{\"role\":\"user\",\"content\":\"thanks\"}]}"),
                "{\"text\":\"" + "t".repeat(99) + "\"}", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                        + "{\"role\":\"assistant\",\"content\":\"" + "z".repeat(60) + "\"}]}");
        TokenizedData data = new Encoder(Samples.TOKENIZER, Samples.EOS, 30).encode(rows,
                PromptTemplate.byForm(Samples.CHAT, LossOn.COMPLETION));
        DataReport report = data.report();
        assertThat(report.kept()).isEqualTo(3);
        assertThat(report.unlabelled()).hasSize(1).first().asString().endsWith("line 2");
        assertThat(report.tooLong()).hasSize(1).first().asString().endsWith("line 5");
        assertThat(report.losses()).isEqualTo(new DataReport.Losses(1, 71, 0, 1, 1, 0));
        assertThat(report.summary()).contains("5 rows: 3 kept (2 without the beginning of their prompt)",
                "1 rows lost their end beyond 30 tokens (71 tokens)", "1 messages behind a last answer left out",
                "in 1 rows no EOS is learned");
        DataReport all = encode(List.of(rows.getFirst()), LossOn.ASSISTANT, 20).report();
        assertThat(all.losses().answers()).isEqualTo(1);
        assertThat(all.summary()).contains("1 conversations lost an earlier answer");
    }

    @Test
    void aTextIsLearnedWhole() throws IOException {
        List<Row> rows = rows("{\"text\":\"abc\"}");
        assertThat(learned(rows, LossOn.COMPLETION)).isEqualTo("abc\u0002");
        assertThatThrownBy(() -> encode(rows, LossOn.ASSISTANT, 20))
                .hasMessageContaining("--assistant-only-loss needs");
        assertThat(learned(List.of(Samples.pair("ab", "cd")), LossOn.ALL)).isEqualTo("abcd\u0002");
        assertThat(learned(List.of(Samples.alpaca("ab", "", "cd")), LossOn.ALL)).startsWith("Below is")
                .endsWith("cd\u0002");
    }

    @Test
    void anAnswerMayComeFirst() throws IOException {
        List<Row> rows = rows("{\"messages\":[{\"role\":\"assistant\",\"content\":\"hi\"},{\"role\":\"user\","
                + "\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}");
        assertThat(learned(rows, LossOn.ASSISTANT)).isEqualTo("hi\u0002|b\u0002");
    }

    /** As zephyr's template, and others of that time: a header to be answered ends with one more new line. */
    @Test
    void whiteSpaceBeforeAnAnswerIsOverlookedAndReported() throws IOException {
        ChatRenderer spaced = Samples.chat((chat, ask) -> "\u0001" + String.join("", chat.messages().stream()
                .map(m -> "  <" + m.get("role") + ">\n" + m.get("content") + Samples.EOS_TEXT + "\n\n").toList())
                + (ask ? "<assistant>\n\n" : ""));
        TokenizedData data = new Encoder(Samples.TOKENIZER, Samples.EOS, 200).encode(rows(TWO_TURNS),
                PromptTemplate.byForm(spaced, LossOn.ASSISTANT));
        assertThat(learned(data.rows().getFirst())).isEqualTo("cd\u0002|gh\u0002");
        assertThat(data.report().losses().spaced()).isEqualTo(1);
        assertThat(data.report().summary()).contains("in 1 conversations the chat template writes the white space");
        assertThat(encode(rows(TWO_TURNS), LossOn.ASSISTANT, 200).report().losses().spaced()).isZero();
    }

    /** As Qwen3: a last answer is written with a thought that earlier ones lose. */
    @Test
    void anEarlierAnswerEndsWithItsEosWhereTheTemplateRewritesIt() throws IOException {
        ChatRenderer thinking = Samples.chat((chat, ask) -> {
            StringBuilder text = new StringBuilder();
            for (int k = 0; k < chat.messages().size(); k++) {
                boolean last = k == chat.messages().size() - 1 && chat.role(k).equals("assistant");
                text.append('<').append(chat.role(k)).append(">\n").append(last ? "(thought)" : "")
                        .append(chat.messages().get(k).get("content")).append(Samples.EOS_TEXT).append('\n');
            }
            return text + (ask ? "<assistant>\n" : "");
        });
        TokenizedData data = new Encoder(Samples.TOKENIZER, Samples.EOS, 200).encode(rows(TWO_TURNS),
                PromptTemplate.byForm(thinking, LossOn.ASSISTANT));
        assertThat(learned(data.rows().getFirst())).isEqualTo("cd\u0002|(thought)gh\u0002");
    }

    @Test
    void tellsWhoseEachTokenIs() throws IOException {
        Encoder encoder = new Encoder(Samples.TOKENIZER, Samples.EOS, 40);
        Encoder.Explained e = encoder.explain(rows(TWO_TURNS).getFirst(),
                PromptTemplate.byForm(Samples.CHAT, LossOn.ASSISTANT));
        StringBuilder seen = new StringBuilder();
        for (int i = 0; i < e.row().length(); i++) {
            Segment s = e.segments()[i] == Encoder.ADDED ? null : e.example().segments().get(e.segments()[i]);
            seen.append(s == null ? '+' : s.field() == null ? '.' : s.role().charAt(0));
        }
        assertThat(e.row().promptCut()).isEqualTo(e.example().text().replace(Samples.EOS_TEXT, "e").length() - 40);
        assertThat(seen.toString()).matches("\\.+aa\\.+uu\\.+aa\\.");
        Encoder.Explained plain = encoder.explain(Samples.pair("ab", "cd"), PromptTemplate.byForm());
        assertThat(plain.segments()).containsExactly(Encoder.ADDED, 0, 0, 1, 1, Encoder.ADDED);
        Encoder.Explained dropped = encoder.explain(Samples.pair("ab", "c".repeat(50)), PromptTemplate.byForm());
        assertThat(dropped.row()).isNull();
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`',
            textBlock = """
                    `{"messages":"hello"}` | "messages" is text that is not valid JSON
                    `{"messages":{}}` | "messages" must be an array of messages, this is an object
                    `{"messages":[]}` | "messages" holds no messages
                    `{"messages":["hi"]}` | message 1 of "messages": must be an object, this is a string
                    `{"messages":[{"content":"a"}]}` | message 1 of "messages": has no "role"
                    `{"messages":[{"role":"user"}]}` | "content" must be a string, this is null
                    `{"messages":[{"role":7,"content":"a"}]}` | "role" must be a string, this is a number
                    `{"messages":[{"role":"user","content":[{"type":"image"}]}]}` | a part that is no text (image)
                    `{"conversations":[{"from":"martian","value":"a"}]}` | "from" is "martian"; known are
                    `{"conversations":[{"from":"human"}]}` | "value" must be a string, this is null
                    `{"conversations":[{"from":"function_call","value":"f("}]}` | not valid JSON
                    `{"messages":[{"role":"user","content":"a"}],"tools":"x"}` | "tools" is text that is not valid JSON
                    `{"messages":[{"role":"user","content":"a"}],"tools":[7]}` | "tools" holds a tool that is no object
                    `{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":[]}` | must be an object
                    `{"prompt":"a","completion":[{"role":"assistant","content":"a"}]}` | "prompt" is text that is not
                    `{"text":" "}` | "text" is empty
                    """)
    void namesWhatIsWrongAndWhere(String line, String problem) {
        assertThatThrownBy(() -> rows(TWO_TURNS, line)).isInstanceOf(DataException.class)
                .hasMessageStartingWith(folder.resolve("x.jsonl") + ", line 2").hasMessageContaining(problem);
    }

    @Test
    void aConversationNeedsAChatTemplate() throws IOException {
        List<Row> rows = rows(TWO_TURNS);
        assertThatThrownBy(() -> PromptTemplate.byForm().apply(rows.getFirst()))
                .hasMessageContaining("the model has no chat template");
        assertThatThrownBy(() -> PromptTemplate.of("alpaca", Samples.CHAT).apply(rows.getFirst()))
                .hasMessageContaining("this is a conversation");
        assertThatThrownBy(() -> PromptTemplate.of("alpaca", null, LossOn.ASSISTANT))
                .hasMessageContaining("--assistant-only-loss needs conversations");
    }

    @Test
    void aTemplateFileMayMarkSeveralAnswers() throws IOException {
        Path file = Files.writeString(folder.resolve("mine.jinja"), "{% for m in messages %}{% if m.role == 'user' %}"
                + "Q:{{ m.content }} {% else %}{% generation %}A:{{ m.content }};{% endgeneration %}{% endif %}{% endfor %}");
        List<Row> rows = rows(TWO_TURNS);
        TokenizedData data = new Encoder(Samples.TOKENIZER, Samples.EOS, 99).encode(rows,
                PromptTemplate.of(file.toString(), null, LossOn.ASSISTANT));
        TokenizedRow row = data.rows().getFirst();
        assertThat(learned(row)).isEqualTo("A:cd;|A:gh;\u0002");
        assertThat(Samples.text(row.ids(), 0, row.length())).startsWith("\u0001Q:ab A:");
        assertThatThrownBy(() -> PromptTemplate.of(file.toString(), null).apply(rows.getFirst()))
                .hasMessageContaining("2 were rendered (--assistant-only-loss takes several)");
    }

    @Test
    void faultsAreFoundInEveryRow() throws IOException {
        List<Row> rows = rows("{\"prompt\":\"ab\",\"completion\":\"cd\"}",
                "{\"prompt\":\"\\u0001\\u0001ab\",\"completion\":\"cd\"}", "{\"text\":\"" + "t".repeat(20) + "\"}",
                "{\"prompt\":\"ab\",\"completion\":\"" + "c".repeat(20) + "\"}",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"nobody answers\"}]}");
        Encoder encoder = new Encoder(Samples.TOKENIZER, Samples.EOS, 12);
        TokenizedData data = encoder.encode(rows, PromptTemplate.byForm(Samples.CHAT, LossOn.COMPLETION));
        List<DataFault> faults = DataFault.of(data, encoder);
        assertThat(faults).extracting(DataFault::kind).containsExactly(DataFault.Kind.ZERO_LABELS,
                DataFault.Kind.CUT_BEFORE_ANSWER, DataFault.Kind.DOUBLE_BOS, DataFault.Kind.UNTRAINED_EOS);
        assertThat(faults).allSatisfy(fault -> assertThat(fault.rows()).hasSize(1));
        assertThat(faults.stream().map(fault -> fault.rows().getFirst().replaceAll(".*line ", "")))
                .containsExactly("5", "4", "2", "3");
        TokenizedData sound = encoder.encode(rows.subList(0, 1), PromptTemplate.byForm());
        assertThat(DataFault.of(sound, encoder)).isEmpty();
    }
}
