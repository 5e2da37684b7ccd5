package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.model.Tokenizer;
import qlora4j.template.ChatTemplate;
import qlora4j.template.Rendered;
import qlora4j.train.data.Chat;
import qlora4j.train.data.ChatRenderer;
import qlora4j.train.data.Encoder;
import qlora4j.train.data.LossOn;
import qlora4j.train.data.PromptTemplate;
import qlora4j.train.data.Row;
import qlora4j.train.data.TokenizedRow;

/** Masks of answers beside transformers' {@code return_assistant_tokens_mask}, with a real tokenizer. */
class AssistantMaskTest {
    private static final Path DIRECTORY = Path.of("../model/src/test/resources/golden/tokenizers/byte_level");
    private static final ObjectMapper JSON = new ObjectMapper();
    private static Tokenizer tokenizer;

    private record Case(String template, String messages, String source, Chat chat, int[] ids, String mask) {
        @Override
        public String toString() {
            return template + ", " + messages;
        }
    }

    @BeforeAll
    static void open() throws IOException {
        tokenizer = Tokenizer.open(DIRECTORY);
    }

    @AfterAll
    static void close() {
        tokenizer.close();
    }

    @SuppressWarnings("unchecked")
    static List<Case> cases() throws IOException {
        List<Case> cases = new ArrayList<>();
        try (InputStream in = AssistantMaskTest.class.getResourceAsStream("data/assistant_masks.json")) {
            JsonNode root = JSON.readTree(in);
            for (JsonNode c : root.get("cases")) {
                List<Map<String, Object>> messages =
                        JSON.convertValue(root.get("messages").get(c.get("messages").asText()), List.class);
                List<Object> tools = c.get("template").asText().equals("tools")
                        ? JSON.convertValue(root.get("tools"), List.class)
                        : null;
                cases.add(new Case(c.get("template").asText(), c.get("messages").asText(),
                        root.get("templates").get(c.get("template").asText()).asText(),
                        new Chat(messages, tools, Map.of()), JSON.convertValue(c.get("ids"), int[].class),
                        c.get("mask").asText()));
            }
        }
        return cases;
    }

    @Test
    void theRecordIsWhole() throws IOException {
        assertThat(cases()).hasSize(9).anyMatch(c -> c.mask.contains("1")).anyMatch(c -> !c.mask.contains("1"));
    }

    private static ChatRenderer renderer(String source, String eos) {
        ChatTemplate template = ChatTemplate.parse(source);
        return new ChatRenderer() {
            @Override
            public Rendered render(Chat chat, boolean addGenerationPrompt) {
                Map<String, Object> context = new HashMap<>();
                context.put("messages", chat.messages());
                context.put("tools", chat.tools());
                context.put("add_generation_prompt", addGenerationPrompt);
                context.put("bos_token", "<s>");
                context.put("eos_token", "</s>");
                return template.renderWithSpans(context);
            }

            @Override
            public boolean marksGeneration() {
                return template.marksGeneration();
            }

            @Override
            public String eosText() {
                return eos;
            }
        };
    }

    private static Encoder.Explained encode(Case c, String source, LossOn loss) throws IOException {
        String eos = c.template.equals("content_only") ? "</s>" : "<|im_end|>";
        int id = tokenizer.encode(eos, false)[0];
        PromptTemplate template = PromptTemplate.of(PromptTemplate.CHAT, renderer(source, eos), loss);
        return new Encoder(new ModelText(tokenizer), id, 1000)
                .explain(new Row.Conversation("here", c.chat, -1, Map.of()), template);
    }

    private static String mask(TokenizedRow row) {
        StringBuilder mask = new StringBuilder();
        for (int i = 0; i < row.length(); i++) {
            mask.append(row.learned(i) ? '1' : '0');
        }
        return mask.toString();
    }

    /** Equal to the end, but for white space behind the last EOS that is not learned. */
    @ParameterizedTest
    @MethodSource("cases")
    void marksAreThoseOfTransformers(Case c) throws IOException {
        TokenizedRow row = encode(c, c.source, LossOn.ASSISTANT).row();
        if (!c.mask.contains("1")) {
            assertThat(row).as("a row without an answer").isNull();
            return;
        }
        assertThat(row.ids()).isEqualTo(Arrays.copyOf(c.ids, row.length()));
        assertThat(mask(row)).isEqualTo(c.mask.substring(0, row.length()));
        assertThat(c.mask.substring(row.length())).doesNotContain("1");
        assertThat(tokenizer.decode(Arrays.copyOfRange(c.ids, row.length(), c.ids.length), false)).isBlank();
    }

    /** Where nothing is marked, prefixes of the conversation find the same answers as the marks of this template. */
    @ParameterizedTest
    @MethodSource("cases")
    void prefixesFindWhatMarksMark(Case c) throws IOException {
        if (!c.template.equals("chatml") || !c.mask.contains("1")) {
            return;
        }
        String unmarked = c.source.replace("{% generation %}", "{% if true %}").replace("endgeneration", "endif");
        TokenizedRow row = encode(c, unmarked, LossOn.ASSISTANT).row();
        assertThat(row.ids()).isEqualTo(Arrays.copyOf(c.ids, row.length()));
        assertThat(mask(row)).isEqualTo(c.mask.substring(0, row.length()));
        TokenizedRow last = encode(c, unmarked, LossOn.COMPLETION).row();
        assertThat(mask(last)).as("the last answer alone")
                .isEqualTo("0".repeat(c.mask.lastIndexOf("01") + 1)
                        + c.mask.substring(c.mask.lastIndexOf("01") + 1, last.length()));
        assertThat(mask(encode(c, unmarked, LossOn.ALL).row())).matches("01+");
    }

    /** transformers learns the first token only of a last character that is several. */
    @Test
    void aLastCharacterOfSeveralTokensIsLearnedWhole() throws IOException {
        String source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}"
                + "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
        Chat chat = new Chat(List.of(Map.of("role", "user", "content", "q"),
                Map.of("role", "assistant", "content", "ok \uD83D\uDC4D"), Map.of("role", "user", "content", "r"),
                Map.of("role", "assistant", "content", "end")), null, Map.of());
        TokenizedRow row =
                encode(new Case("chatml", "emoji", source, chat, null, null), source, LossOn.ASSISTANT).row();
        List<String> runs = new ArrayList<>();
        for (int r = 0; r < row.runs().length; r += 2) {
            runs.add(tokenizer.decode(Arrays.copyOfRange(row.ids(), row.runs()[r], row.runs()[r + 1]), false));
        }
        assertThat(runs).containsExactly("ok \uD83D\uDC4D", "end<|im_end|>");
    }

    @Test
    void offsetsCountCharsOfJava() {
        String text = "a \uD83D\uDE00 b\uD83D\uDC4D\uD83C\uDFFD<|im_end|>\u00e9";
        Tokenizer.WithOffsets found = tokenizer.encodeWithOffsets(text);
        assertThat(found.ids()).isEqualTo(tokenizer.encode(text, false));
        int covered = 0;
        for (int i = 0; i < found.ids().length; i++) {
            assertThat(found.starts()[i]).isLessThanOrEqualTo(covered);
            covered = Math.max(covered, found.ends()[i]);
        }
        assertThat(covered).isEqualTo(text.length());
        int end = tokenizer.encode("<|im_end|>", false)[0];
        for (int i = 0; i < found.ids().length; i++) {
            if (found.ids()[i] == end) {
                assertThat(text.substring(found.starts()[i], found.ends()[i])).isEqualTo("<|im_end|>");
            }
        }
    }
}
