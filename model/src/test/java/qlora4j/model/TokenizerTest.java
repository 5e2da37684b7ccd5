package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.template.TemplateException;

class TokenizerTest {
    private static final String BYTE_FALLBACK = "byte_fallback";
    private static final String BYTE_LEVEL = "byte_level";
    private static final String FUSED_BYTE_LEVEL = "fused";

    @TempDir
    Path directory;

    private static Tokenizer open(String kind) throws IOException {
        return Tokenizer.open(Golden.path("tokenizers/" + kind));
    }

    /** The byte-level tokenizer with the decoder that SmolLM2 has. */
    private Tokenizer fusedByteLevel() throws IOException {
        ObjectNode json = JsonFile.read(Golden.path("tokenizers/byte_level/tokenizer.json")).fields();
        json.set("decoder", JsonFile.MAPPER.readTree("""
                {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
                 {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                 {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}]}"""));
        JsonFile.MAPPER.writeValue(directory.resolve("tokenizer.json").toFile(), json);
        return Tokenizer.open(directory);
    }

    private static JsonNode expected() throws IOException {
        return JsonFile.read(Golden.path("tokenizers/expected.json")).fields();
    }

    private static int[] ints(JsonNode list) {
        return StreamSupport.stream(list.spliterator(), false).mapToInt(JsonNode::intValue).toArray();
    }

    private static String streamed(Tokenizer tokenizer, int[] ids, boolean skipSpecial) {
        StreamingDecoder decoder = tokenizer.streamingDecoder(skipSpecial);
        StringBuilder text = new StringBuilder();
        for (int id : ids) {
            text.append(decoder.accept(id));
        }
        return text.append(decoder.finish()).toString();
    }

    @ParameterizedTest
    @ValueSource(strings = {BYTE_FALLBACK, BYTE_LEVEL})
    void encodesAndDecodesAsRecorded(String kind) throws IOException {
        JsonNode cases = expected().get("expected").get(kind);
        try (Tokenizer tokenizer = open(kind)) {
            for (JsonNode c : cases.get("encode")) {
                String text = c.get(0).textValue();
                assertThat(tokenizer.encode(text, true)).as(text).containsExactly(ints(c.get(1)));
                assertThat(tokenizer.encode(text, false)).as(text).containsExactly(ints(c.get(2)));
            }
            for (JsonNode c : cases.get("decode")) {
                int[] ids = ints(c.get(0));
                assertThat(tokenizer.decode(ids, false)).isEqualTo(c.get(1).textValue());
                assertThat(tokenizer.decode(ids, true)).isEqualTo(c.get(2).textValue());
                assertThat(streamed(tokenizer, ids, false)).isEqualTo(c.get(1).textValue());
                assertThat(streamed(tokenizer, ids, true)).isEqualTo(c.get(2).textValue());
            }
            assertThat(cases.get("encode")).isNotEmpty();
            assertThat(cases.get("decode")).isNotEmpty();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {BYTE_FALLBACK, BYTE_LEVEL})
    void rendersChatsAsRecorded(String kind) throws IOException {
        JsonNode recorded = expected();
        int refused = 0;
        for (JsonNode c : recorded.get("expected").get(kind).get("chat")) {
            String template = recorded.get("templates").get(c.get("template").textValue()).textValue();
            List<Message> messages = new ArrayList<>();
            for (JsonNode m : recorded.get("conversations").get(c.get("conversation").intValue())) {
                messages.add(new Message(m.get("role").textValue(), m.get("content").textValue()));
            }
            boolean prompt = c.get("add_generation_prompt").booleanValue();
            for (String file : new String[]{"tokenizer.json", "tokenizer_config.json"}) {
                Files.write(directory.resolve(file),
                        Files.readAllBytes(Golden.path("tokenizers/" + kind + "/" + file)));
            }
            Files.writeString(directory.resolve("chat_template.jinja"), template);
            try (Tokenizer tokenizer = Tokenizer.open(directory)) {
                if (c.has("error")) {
                    refused++;
                    assertThatThrownBy(() -> tokenizer.renderChat(messages, prompt))
                            .isInstanceOf(TemplateException.class)
                            .hasMessage(c.get("error").textValue());
                } else {
                    String text = tokenizer.renderChat(messages, prompt);
                    assertThat(text).isEqualTo(c.get("text").textValue());
                    assertThat(tokenizer.encode(text, false)).containsExactly(ints(c.get("ids")));
                }
            }
        }
        assertThat(refused).isPositive();
    }

    @ParameterizedTest
    @ValueSource(strings = {BYTE_FALLBACK, BYTE_LEVEL, FUSED_BYTE_LEVEL})
    void piecesOfAnyTokensAreTheirTextTogether(String kind) throws IOException {
        Random random = new Random(7);
        try (Tokenizer tokenizer = kind.equals(FUSED_BYTE_LEVEL) ? fusedByteLevel() : open(kind)) {
            assertThat(tokenizer.decodesPiecewise()).isTrue();
            int[] vocabulary = IntStream.range(0, tokenizer.vocabSize()).filter(tokenizer::contains).toArray();
            // Characters of one to four bytes, so that many tokens are parts of characters, and often wrong ones.
            int[] bytes = tokenizer.encode("a é 你好 😀 \uFFFD ĀāĂ", false);
            for (int run = 0; run < 2000; run++) {
                int[] ids = random.ints(random.nextInt(12), 0, vocabulary.length).map(i -> vocabulary[i])
                        .map(id -> random.nextBoolean() ? id : bytes[random.nextInt(bytes.length)]).toArray();
                for (boolean skip : new boolean[]{false, true}) {
                    assertThat(streamed(tokenizer, ids, skip)).as("%s", (Object) ids)
                            .isEqualTo(tokenizer.decode(ids, skip));
                }
            }
        }
    }

    @Test
    void aCharacterIsGivenOutWithItsLastByte() throws IOException {
        try (Tokenizer tokenizer = open(BYTE_LEVEL)) {
            int[] ids = tokenizer.encode("x\u20ACy", false); // the euro sign: three bytes, not in the vocabulary
            StreamingDecoder decoder = tokenizer.streamingDecoder(true);
            List<String> pieces = new ArrayList<>();
            for (int id : ids) {
                pieces.add(decoder.accept(id));
            }
            assertThat(pieces.size()).isGreaterThan(3);
            assertThat(pieces).doesNotContain("\uFFFD").contains("\u20AC").contains("");
            assertThat(String.join("", pieces)).isEqualTo("x\u20ACy");
            assertThat(decoder.finish()).isEmpty();
            StreamingDecoder cut = tokenizer.streamingDecoder(true);
            assertThat(cut.accept(ids[0]) + cut.accept(ids[1])).isEqualTo("x");
            assertThat(cut.finish()).isEqualTo("\uFFFD");
        }
    }

    @Test
    void otherDecodersStreamToo() throws IOException {
        Files.writeString(directory.resolve("tokenizer.json"), """
                {"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
                 "post_processor": null, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
                 "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "one": 1, "##ce": 2}}}""");
        try (Tokenizer tokenizer = Tokenizer.open(directory)) {
            assertThat(tokenizer.decodesPiecewise()).isFalse();
            int[] ids = {1, 2, 1, 1, 2};
            assertThat(tokenizer.decode(ids, true)).isEqualTo("onece one onece");
            assertThat(streamed(tokenizer, ids, true)).isEqualTo("onece one onece");
        }
    }

    @Test
    void textsAreNeverCutOrPadded() throws IOException {
        String long_ = "a ".repeat(3000);
        Path source = Golden.path("tokenizers/byte_level");
        String json = Files.readString(source.resolve("tokenizer.json"));
        String cutting = json.replaceFirst("\"truncation\"\\s*:\\s*null", "\"truncation\": {\"direction\": \"Right\","
                + " \"max_length\": 8, \"strategy\": \"LongestFirst\", \"stride\": 0}").replaceFirst(
                        "\"padding\"\\s*:\\s*null",
                        "\"padding\": {\"strategy\": {\"Fixed\": 8}, \"direction\": \"Right\","
                                + " \"pad_to_multiple_of\": null, \"pad_id\": 3, \"pad_type_id\": 0, \"pad_token\":"
                                + " \"<pad>\"}");
        assertThat(cutting).contains("LongestFirst").contains("Fixed");
        Files.writeString(directory.resolve("tokenizer.json"), cutting);
        try (Tokenizer tokenizer = open(BYTE_LEVEL); Tokenizer cut = Tokenizer.open(directory)) {
            assertThat(tokenizer.encode(long_, true).length).isGreaterThanOrEqualTo(3000);
            assertThat(cut.encode(long_, true)).containsExactly(tokenizer.encode(long_, true));
            assertThat(cut.encode("a", true)).containsExactly(tokenizer.encode("a", true));
        }
    }

    @Test
    void specialTokensComeFromTheConfigurationAndTheOlderMap() throws IOException {
        try (Tokenizer tokenizer = open(BYTE_FALLBACK)) {
            assertThat(tokenizer.bos().orElseThrow().text()).isEqualTo("<s>");
            assertThat(tokenizer.bos().orElseThrow().id()).hasValue(1);
            assertThat(tokenizer.eosId()).hasValue(2);
            assertThat(tokenizer.pad().orElseThrow().id()).hasValue(3);
            assertThat(tokenizer.unk().orElseThrow().id()).hasValue(0);
            assertThat(tokenizer.isSpecial(2)).isTrue();
            assertThat(tokenizer.isSpecial(309)).isFalse();
            assertThat(tokenizer.vocabSize()).isEqualTo(640);
        }
        Files.copy(Golden.path("tokenizers/byte_level/tokenizer.json"), directory.resolve("tokenizer.json"));
        Files.writeString(directory.resolve("tokenizer_config.json"), "{\"eos_token\": {\"content\": \"<|im_end|>\"}}");
        Files.writeString(directory.resolve("special_tokens_map.json"),
                "{\"eos_token\": \"</s>\", \"bos_token\": \"<s>\", \"pad_token\": \"[PAD]\"}");
        try (Tokenizer tokenizer = Tokenizer.open(directory)) {
            assertThat(tokenizer.eosId()).hasValue(5);
            assertThat(tokenizer.bos().orElseThrow().id()).hasValue(1);
            assertThat(tokenizer.pad()).hasValue(new SpecialToken("[PAD]", OptionalInt.empty()));
            assertThat(tokenizer.unk()).isEmpty();
            assertThatThrownBy(() -> tokenizer.renderChat(List.of(), false)).hasMessageContaining("no chat template")
                    .hasMessageContaining(directory.toString());
        }
    }

    @Test
    void theTemplateFileCountsBeforeTheConfiguration() throws IOException {
        Files.copy(Golden.path("tokenizers/byte_level/tokenizer.json"), directory.resolve("tokenizer.json"));
        Path config = directory.resolve("tokenizer_config.json");
        Files.writeString(config, "{\"chat_template\": \"one {{ messages[0].content }}\"}");
        List<Message> hi = List.of(new Message("user", "{{ 1 + 1 }}"));
        try (Tokenizer tokenizer = Tokenizer.open(directory)) {
            assertThat(tokenizer.renderChat(hi, true)).isEqualTo("one {{ 1 + 1 }}");
        }
        Files.writeString(config, """
                {"eos_token": "</s>", "chat_template": [{"name": "default", "template": "two{{ eos_token }}"},
                 {"name": "tool", "template": "three"}]}""");
        try (Tokenizer tokenizer = Tokenizer.open(directory)) {
            assertThat(tokenizer.renderChat(hi, true)).isEqualTo("two</s>");
            assertThat(tokenizer.renderChat("tool", hi, true)).isEqualTo("three");
            assertThat(tokenizer.chatTemplates()).containsExactlyInAnyOrder("default", "tool");
            assertThatThrownBy(() -> tokenizer.renderChat("rag", hi, true)).hasMessageContaining("rag")
                    .hasMessageContaining("tool");
        }
        Files.writeString(directory.resolve("chat_template.jinja"), "four");
        try (Tokenizer tokenizer = Tokenizer.open(directory)) {
            assertThat(tokenizer.renderChat(hi, true)).isEqualTo("four");
        }
    }

    @Test
    void whatCannotBeIsAnError() throws IOException {
        Tokenizer tokenizer = open(BYTE_LEVEL);
        for (int id : new int[]{-1, 470, Integer.MAX_VALUE}) {
            assertThatThrownBy(() -> tokenizer.decode(new int[]{5, id}, true)).hasMessageContaining("no token " + id);
            assertThatThrownBy(() -> tokenizer.streamingDecoder(true).accept(id))
                    .hasMessageContaining("no token " + id);
        }
        assertThatThrownBy(() -> tokenizer.encode("ab\uD83D", true)).hasMessageContaining("index 2");
        assertThatThrownBy(() -> tokenizer.encode("\uDE00", true)).hasMessageContaining("index 0");
        tokenizer.close();
        tokenizer.close();
        assertThatThrownBy(() -> tokenizer.encode("a", true)).hasMessageContaining("closed");
        assertThatThrownBy(() -> tokenizer.decode(new int[0], true)).hasMessageContaining("closed");
    }

    @Test
    void filesThatAreMissingOrDamagedAreNamed() throws IOException {
        assertThatThrownBy(() -> Tokenizer.open(directory)).isInstanceOf(ModelFormatException.class)
                .hasMessageContaining("tokenizer.json");
        Files.writeString(directory.resolve("tokenizer.model"), "");
        assertThatThrownBy(() -> Tokenizer.open(directory)).hasMessageContaining("tokenizer.model alone");
        for (String bad : new String[]{"", "[]", "{", "{\"model\": 3}", "{\"model\": {\"vocab\": {}}}",
                "{\"model\": {\"vocab\": {\"a\": -1}}}", "{\"model\": {\"vocab\": {\"a\": \"b\"}}}",
                "{\"added_tokens\": [{}]}", "{\"model\": {\"type\": \"None\", \"vocab\": {\"a\": 0}}}"}) {
            Files.writeString(directory.resolve("tokenizer.json"), bad);
            assertThatThrownBy(() -> Tokenizer.open(directory)).as(bad).isInstanceOf(ModelFormatException.class)
                    .hasMessageContaining(directory.resolve("tokenizer.json").toString());
        }
    }
}
