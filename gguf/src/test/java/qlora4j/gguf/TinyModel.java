package qlora4j.gguf;

import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ModelTensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Tensor;

/** Model directories with random weights and the recorded tokenizers. */
final class TinyModel {
    static final Path TOKENIZERS = Path.of("..", "model", "src", "test", "resources", "golden", "tokenizers");
    private static final String CONFIG = """
            {"model_type": "%s", "dtype": "float32", "vocab_size": %d, "hidden_size": 64, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
             "max_position_embeddings": 256, "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": %s,
             "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 3,
             "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}""";

    private TinyModel() {
    }

    /** Writes a model; {@code more} are further fields of its configuration. */
    static Path write(Path directory, String modelType, String tokenizer, int vocab, boolean tied, String more)
            throws IOException {
        Files.createDirectories(directory);
        for (String name : List.of("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")) {
            Files.copy(TOKENIZERS.resolve(tokenizer).resolve(name), directory.resolve(name));
        }
        JsonMapper json = new JsonMapper();
        ObjectNode config = (ObjectNode) json.readTree(String.format(CONFIG, modelType, vocab, tied));
        config.setAll((ObjectNode) json.readTree(more));
        json.writeValue(directory.resolve("config.json").toFile(), config);
        Random random = new Random(3);
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        Map<String, long[]> expected = ModelTensors.expected(DecoderConfig.read(directory));
        expected.forEach((name, shape) -> {
            float[] values = new float[Math.toIntExact(Tensor.elements(shape))];
            for (int i = 0; i < values.length; i++) {
                values[i] = (float) random.nextGaussian();
            }
            writer.add(name, Tensor.of(values, shape));
        });
        writer.write(directory.resolve("model.safetensors"));
        return directory;
    }

    static Path llama(Path directory) throws IOException {
        return write(directory, "llama", "byte_level", 480, true, "{}");
    }
}
