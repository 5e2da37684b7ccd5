package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Rows of the embedding and of the head in an adapter's files, as PEFT names and arranges them. */
class PeftTokensTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String MODULE = "model.layers.0.self_attn.q_proj";
    private static final String EMBEDDING_ROWS = "base_model.model.model.embed_tokens.token_adapter"
            + ".trainable_tokens_delta";
    private static final String HEAD_ROWS = "base_model.model.lm_head.token_adapter.trainable_tokens_delta";

    @TempDir
    private Path directory;

    private static LoraConfig config(TrainableTokens tokens) {
        return new LoraConfig(2, 4, 0.05, List.of("q_proj"), "base", 1).withTokens(tokens);
    }

    private static Map<String, AdapterWeights> modules() {
        return Map.of(MODULE, new AdapterWeights(Tensor.of(new float[]{1, 2, 3, 4, 5, 6}, 2, 3),
                Tensor.of(new float[]{7, 8, 9, 10}, 2, 2)));
    }

    private static Tensor rows(int from, int count) {
        float[] values = new float[3 * count];
        for (int i = 0; i < values.length; i++) {
            values[i] = from + i;
        }
        return Tensor.of(values, count, 3);
    }

    private JsonNode written() throws IOException {
        return JSON.readTree(Files.readString(directory.resolve(PeftAdapter.CONFIG))).get("trainable_token_indices");
    }

    @Test
    void rowsOfATiedTableAreAList() throws IOException {
        TrainableTokens tokens = TrainableTokens.of(List.of(9, 4, 9), true);
        assertThat(tokens.of(TrainableTokens.EMBEDDING)).containsExactly(4, 9);
        assertThat(tokens.of(TrainableTokens.HEAD)).isEmpty();
        assertThat(tokens).hasToString("embed_tokens=[4, 9]");
        PeftAdapter.write(directory, config(tokens), modules(), Map.of(), Map.of(TrainableTokens.EMBEDDING,
                rows(1, 2)));
        assertThat(written()).hasToString("[4,9]");
        try (Safetensors file = Safetensors.open(directory.resolve(PeftAdapter.WEIGHTS))) {
            assertThat(file.tensor(EMBEDDING_ROWS).toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
        }
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.config().tokens()).isEqualTo(tokens);
            assertThat(adapter.tokens()).containsOnlyKeys(TrainableTokens.EMBEDDING);
        }
    }

    @Test
    void rowsOfTwoTablesAreADictionary() throws IOException {
        TrainableTokens tokens = TrainableTokens.of(List.of(4, 9), false);
        assertThat(tokens).hasToString("embed_tokens=[4, 9], lm_head=[4, 9]");
        PeftAdapter.write(directory, config(tokens), modules(), Map.of(),
                Map.of(TrainableTokens.EMBEDDING, rows(1, 2), TrainableTokens.HEAD, rows(20, 2)));
        assertThat(written()).hasToString("{\"embed_tokens\":[4,9],\"lm_head\":[4,9]}");
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.config().tokens()).isEqualTo(tokens);
            assertThat(adapter.tokens().get(TrainableTokens.HEAD).toFloats()).startsWith(20);
        }
        // The head alone is a dictionary, too: a list would be the embedding's.
        PeftAdapter.write(directory, config(new TrainableTokens(Map.of(TrainableTokens.HEAD, List.of(3)))), modules(),
                Map.of(), Map.of(TrainableTokens.HEAD, rows(5, 1)));
        assertThat(written()).hasToString("{\"lm_head\":[3]}");
    }

    /** PEFT saves a tied head's rows beside the embedding's, which they are, and a grown table beside its rows. */
    @Test
    void whatPeftWritesTwiceIsTakenOnce() throws IOException {
        PeftAdapter.write(directory, config(TrainableTokens.of(List.of(1, 5), true)), modules(), Map.of(),
                Map.of(TrainableTokens.EMBEDDING, rows(1, 2)));
        tensors(writer -> writer.add(EMBEDDING_ROWS, rows(1, 2)).add(HEAD_ROWS, rows(1, 2))
                .add("base_model.model.model.embed_tokens.base_layer.weight", rows(100, 4)));
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.tokens()).containsOnlyKeys(TrainableTokens.EMBEDDING);
            assertThat(adapter.whole().get("model.embed_tokens.weight").toFloats()).as("row 1 replaced; row 5 is not"
                    + " in the table").containsExactly(100, 101, 102, 1, 2, 3, 106, 107, 108, 109, 110, 111);
        }
        for (Tensor other : List.of(rows(2, 2), rows(1, 3), Tensor.zeros(DType.BF16, 2, 3))) {
            tensors(writer -> writer.add(EMBEDDING_ROWS, rows(1, 2)).add(HEAD_ROWS, other));
            assertThatThrownBy(() -> PeftAdapter.open(directory)).as("a head of its own")
                    .hasMessageContainingAll("lm_head", "does not ask for it");
        }
    }

    private void tensors(java.util.function.Consumer<SafetensorsWriter> more) throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        writer.add("base_model.model." + MODULE + ".lora_A.weight", modules().get(MODULE).a());
        writer.add("base_model.model." + MODULE + ".lora_B.weight", modules().get(MODULE).b());
        more.accept(writer);
        writer.write(directory.resolve(PeftAdapter.WEIGHTS));
    }

    @Test
    void rowsMustBeThereAndFit() throws IOException {
        TrainableTokens tokens = TrainableTokens.of(List.of(1, 5), true);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> PeftAdapter.write(directory, config(tokens), modules(), Map.of(), Map.of()))
                .withMessageContainingAll("embed_tokens", "missing", "[2, hidden]");
        for (Tensor wrong : List.of(rows(1, 3), Tensor.zeros(DType.F32, 2), Tensor.zeros(DType.I32, 2, 3))) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> PeftAdapter.write(directory, config(tokens), modules(), Map.of(),
                            Map.of(TrainableTokens.EMBEDDING, wrong)))
                    .withMessageContaining("embed_tokens");
        }
        assertThatIllegalArgumentException()
                .isThrownBy(() -> PeftAdapter.write(directory, config(TrainableTokens.NONE), modules(), Map.of(),
                        Map.of(TrainableTokens.EMBEDDING, rows(1, 2))))
                .withMessageContaining("does not ask for it");
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"7|list of token ids", "\"a\"|list of token ids", "[1.5]|list of token ids",
            "[99999999999]|list of token ids", "{\"embed_tokens\":{\"a\":1}}|list of token ids",
            "[1,1]|each once", "[-1]|each once", "{\"norm\":[1]}|embed_tokens and lm_head"})
    void otherIndicesAreRefused(String value, String says) throws IOException {
        indices(value);
        assertThatThrownBy(() -> PeftAdapter.open(directory)).hasMessageContaining(says);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"null|0", "[]|0", "{}|0", "{\"embed_tokens\":[]}|0"})
    void noIndicesAreNoRows(String value, int rows) throws IOException {
        indices(value);
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.config().tokens().isEmpty()).isTrue();
            assertThat(adapter.tokens()).hasSize(rows);
        }
    }

    /** The names by which PEFT's dictionary may call a module. */
    @Test
    void modulesHaveSeveralNames() {
        for (String name : List.of("embed_tokens", "model.embed_tokens", "base_model.model.model.embed_tokens")) {
            assertThat(TrainableTokens.module(name)).as(name).isEqualTo(TrainableTokens.EMBEDDING);
        }
        assertThat(TrainableTokens.module("lm_head")).isEqualTo(TrainableTokens.HEAD);
        assertThat(TrainableTokens.module("x.lm_head")).isEqualTo(TrainableTokens.HEAD);
        assertThat(TrainableTokens.module("tokens")).isEqualTo("tokens");
    }

    @Test
    void aModuleIsNotTrainedTwice() {
        TrainableTokens tokens = TrainableTokens.of(List.of(1), true);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> config(tokens).withTrained(LoraConfig.Bias.NONE, List.of("embed_tokens")))
                .withMessageContaining("--modules-to-save model.embed_tokens");
        assertThat(config(tokens).withTrained(LoraConfig.Bias.NONE, List.of("lm_head")).modulesToSave())
                .containsExactly("lm_head");
    }

    private void indices(String value) throws IOException {
        PeftAdapter.write(directory, config(TrainableTokens.NONE), modules());
        Path file = directory.resolve(PeftAdapter.CONFIG);
        ObjectNode json = (ObjectNode) JSON.readTree(Files.readString(file));
        json.set("trainable_token_indices", JSON.readTree(value));
        Files.writeString(file, JSON.writeValueAsString(json));
    }
}
