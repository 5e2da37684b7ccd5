package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

class ModelDirectoryTest {
    @TempDir
    Path directory;

    @BeforeEach
    void aCompleteModel() throws IOException {
        copy("llama/base/config.json");
        copy("tokenizers/byte_level/tokenizer.json");
        copy("tokenizers/byte_level/tokenizer_config.json");
        // The recorded tokenizer is longer than the recorded model's embedding.
        config(c -> c.put("vocab_size", 470).put("num_hidden_layers", 2));
        weights(t -> {
        });
    }

    private void copy(String golden) throws IOException {
        Path source = Golden.path(golden);
        Files.copy(source, directory.resolve(source.getFileName()), StandardCopyOption.REPLACE_EXISTING);
    }

    private void config(Consumer<ObjectNode> change) throws IOException {
        Path file = directory.resolve("config.json");
        ObjectNode json = JsonFile.read(file).fields();
        change.accept(json);
        JsonFile.MAPPER.writeValue(file.toFile(), json);
    }

    /** Writes the tensors that the configuration describes, all zero and changed so. */
    private void weights(Consumer<Map<String, Tensor>> change) throws IOException {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        ModelTensors.expected(DecoderConfig.read(directory))
                .forEach((name, shape) -> tensors.put(name, Tensor.zeros(DType.BF16, shape)));
        change.accept(tensors);
        SafetensorsWriter writer = new SafetensorsWriter();
        tensors.forEach(writer::add);
        writer.write(directory.resolve("model.safetensors"));
    }

    private void refused(String... says) {
        assertThatThrownBy(() -> {
            try (ModelDirectory model = ModelDirectory.open(directory)) {
                model.weights();
            }
        }).isInstanceOf(ModelFormatException.class).hasMessageContaining(directory.toString())
                .hasMessageContainingAll(says);
    }

    @Test
    void aCompleteModelOpens() throws IOException {
        ModelDirectory model = ModelDirectory.open(directory);
        try (model) {
            assertThat(model.config()).isEqualTo(DecoderConfig.read(directory));
            assertThat(model.configJson()).isEqualTo(JsonFile.read(directory.resolve("config.json")).fields());
            assertThat(model.generation().eosIds()).containsExactly(2);
            assertThat(model.trainingEos()).isEqualTo(2);
            assertThat(model.tokenizer()).isSameAs(model.tokenizer());
            assertThat(model.weights()).isSameAs(model.weights());
            assertThat(model.weights().names()).containsExactlyInAnyOrderElementsOf(model.expectedTensors().keySet());
            SafetensorsModel first = model.weights();
            model.closeWeights();
            assertThat(model.weights()).isNotSameAs(first);
            assertThat(model.weights().names()).containsExactlyInAnyOrderElementsOf(model.expectedTensors().keySet());
            assertThat(model.warnings()).isEmpty();
            assertThat(model.path()).isEqualTo(directory);
        }
        assertThatThrownBy(model::tokenizer).hasMessageContaining("closed");
        assertThatThrownBy(model::weights).hasMessageContaining("closed");
    }

    @Test
    void expectedTensorsHaveTheLayoutOfTheFamily() throws IOException {
        config(c -> c.put("attention_bias", true).put("mlp_bias", true).put("head_dim", 8));
        Map<String, long[]> shapes = ModelTensors.expected(DecoderConfig.read(directory));
        assertThat(shapes).hasSize(3 + 2 * (2 + 7 * 2)); // embedding, norm, head; per layer two norms, seven linears
        assertThat(shapes.get("model.layers.1.self_attn.q_proj.weight")).containsExactly(32, 64);
        assertThat(shapes.get("model.layers.0.self_attn.k_proj.bias")).containsExactly(16);
        assertThat(shapes.get("model.layers.0.self_attn.o_proj.weight")).containsExactly(64, 32);
        assertThat(shapes.get("model.layers.0.mlp.down_proj.weight")).containsExactly(64, 176);
        assertThat(shapes.get("model.layers.0.mlp.up_proj.bias")).containsExactly(176);
        assertThat(shapes.get("lm_head.weight")).containsExactly(470, 64);
        config(c -> c.put("tie_word_embeddings", true));
        assertThat(ModelTensors.expected(DecoderConfig.read(directory))).doesNotContainKey("lm_head.weight");
    }

    @Test
    void aFourBitCheckpointOpens() throws IOException {
        config(c -> c.put("vocab_size", 320).put("num_hidden_layers", 3));
        weights(t -> {
        });
        Path dense = Files.createDirectory(directory.resolve("dense"));
        for (String file : new String[]{"config.json", "model.safetensors", "tokenizer.json"}) {
            Files.move(directory.resolve(file), dense.resolve(file));
        }
        try (ModelDirectory source = ModelDirectory.open(dense); Backend scalar = Backends.open("scalar", null, 1)) {
            CheckpointQuantizer.quantize(source, directory, QuantConfig.QLORA, null, scalar, _ -> {
            });
        }
        try (ModelDirectory model = ModelDirectory.open(directory)) {
            assertThat(model.config().quantization().quantType()).isEqualTo(QuantType.NF4);
            assertThat(ModelTensors.isPacked(model.weights(), "model.layers.0.mlp.up_proj.weight")).isTrue();
            assertThat(ModelTensors.isPacked(model.weights(), "model.norm.weight")).isFalse();
            model.tokenizer();
            assertThat(model.warnings()).singleElement().asString().contains("320 rows");
        }
        config(c -> c.put("num_hidden_layers", 2));
        refused("unexpected: model.layers.2.input_layernorm.weight", "mlp.down_proj.weight.quant_map");
    }

    @Test
    void tensorsThatDifferAreNamed() throws IOException {
        weights(t -> t.remove("model.norm.weight"));
        refused("missing: model.norm.weight");
        weights(t -> t.put("model.layers.2.input_layernorm.weight", Tensor.zeros(DType.F32, 64)));
        refused("unexpected: model.layers.2.input_layernorm.weight");
        weights(t -> t.put("model.norm.weight", Tensor.zeros(DType.F32, 65)));
        refused("model.norm.weight is [65] instead of [64]");
        weights(t -> t.put("model.norm.weight", Tensor.zeros(DType.I32, 64)));
        refused("model.norm.weight is I32");
        weights(t -> t.put("lm_head.weight", Tensor.zeros(DType.U8, 15040, 1)));
        refused("lm_head.weight is [15040, 1]");
        weights(t -> t.remove("lm_head.weight"));
        refused("missing: lm_head.weight");
        weights(Map::clear);
        refused("missing: model.embed_tokens.weight", "and 13 more");
    }

    @Test
    void whatOldOrTiedCheckpointsHoldBesidesIsAccepted() throws IOException {
        weights(t -> t.put("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor.zeros(DType.F32, 8)));
        config(c -> c.put("tie_word_embeddings", true)); // the head is stored all the same
        try (ModelDirectory model = ModelDirectory.open(directory)) {
            assertThat(model.weights().contains("lm_head.weight")).isTrue();
        }
    }

    @Test
    void filesThatAreMissingAreNamed() throws IOException {
        assertThatThrownBy(() -> ModelDirectory.open(directory.resolve("none")))
                .hasMessageContaining("no such directory");
        assertThatThrownBy(() -> ModelDirectory.open(directory.resolve("config.json")))
                .hasMessageContaining("directory of a model is expected");
        Files.move(directory.resolve("model.safetensors"), directory.resolve("other.safetensors"));
        refused("neither model.safetensors nor model.safetensors.index.json");
        Files.writeString(directory.resolve("pytorch_model.bin"), "");
        refused("pytorch_model.bin", "safe_serialization=True");
        Files.writeString(directory.resolve("adapter_config.json"), "{}");
        refused("adapter", "base model");
        Files.move(directory.resolve("other.safetensors"), directory.resolve("model.safetensors"));
        Files.delete(directory.resolve("tokenizer.json"));
        refused("there is no tokenizer.json");
        Files.delete(directory.resolve("config.json"));
        refused("there is no config.json");
    }

    @Test
    void anEosThatDoesNotCountIsAWarning() throws IOException {
        Files.writeString(directory.resolve("generation_config.json"), "{\"eos_token_id\": [5, 4], \"num_beams\": 2}");
        try (ModelDirectory model = ModelDirectory.open(directory)) {
            assertThat(model.warnings()).singleElement().asString().contains("num_beams=2");
            assertThat(model.trainingEos()).isEqualTo(5);
            assertThat(model.warnings()).hasSize(2);
            assertThat(model.warnings().get(1)).contains("</s>").contains("(2)").contains("[5, 4]");
        }
        Files.writeString(directory.resolve("tokenizer_config.json"), "{\"eos_token\": \"<|im_start|>\"}");
        try (ModelDirectory model = ModelDirectory.open(directory)) {
            assertThat(model.trainingEos()).isEqualTo(4);
            assertThat(model.warnings()).hasSize(1);
        }
        Files.writeString(directory.resolve("tokenizer_config.json"), "{\"eos_token\": \"<|end|>\"}");
        try (ModelDirectory model = ModelDirectory.open(directory)) {
            assertThat(model.trainingEos()).isEqualTo(5);
            assertThat(model.warnings().get(1)).contains("<|end|>").contains("not in the vocabulary");
        }
    }
}
