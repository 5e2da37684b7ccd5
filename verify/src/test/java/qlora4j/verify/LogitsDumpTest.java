package qlora4j.verify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ModelTensors;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Tensor;

/** A dump of a small random model, which has no tokenizer. */
class LogitsDumpTest {
    private static final int VOCAB = 11;
    private static final int[] IDS = {3, 0, 10, 7, 7};
    private static final String CONFIG = """
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 16,
             "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
             "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2}
            """;

    @TempDir
    private Path directory;

    @BeforeEach
    void model() throws IOException {
        Files.writeString(directory.resolve("config.json"), CONFIG);
        Random random = new Random(5);
        SafetensorsWriter writer = new SafetensorsWriter();
        ModelTensors.expected(DecoderConfig.read(directory)).forEach((name, shape) -> {
            float[] values = new float[(int) Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
            for (int i = 0; i < values.length; i++) {
                values[i] = (float) (0.3 * random.nextGaussian());
            }
            writer.add(name, Tensor.of(values, shape));
        });
        writer.write(directory.resolve("model.safetensors"));
    }

    private float[] logits(boolean quantize, int... ids) throws IOException {
        Path file = directory.resolve("dump.safetensors");
        try (Backend scalar = Backends.open(Backend.SCALAR)) {
            LogitsDump.write(scalar, directory, null, quantize, ids, file);
        }
        try (Safetensors dump = Safetensors.open(file)) {
            assertThat(dump.tensor(LogitsDump.IDS).shape()).containsExactly(1, ids.length);
            assertThat(dump.tensor(LogitsDump.IDS).toInts()).containsExactly(ids);
            Tensor logits = dump.tensor(LogitsDump.LOGITS);
            assertThat(logits.shape()).containsExactly(1, ids.length, VOCAB);
            return logits.toFloats();
        }
    }

    @Test
    void everyPositionHasItsLogits() throws IOException {
        float[] all = logits(false, IDS);
        for (float x : all) {
            assertThat(x).isFinite();
        }
        for (int n = 1; n < IDS.length; n++) {
            float[] prefix = logits(false, Arrays.copyOf(IDS, n));
            assertThat(prefix).as("the first %d positions do not see the rest", n)
                    .containsExactly(Arrays.copyOf(all, n * VOCAB));
        }
    }

    @Test
    void quantizingChangesThem() throws IOException {
        assertThat(logits(true, IDS)).isNotEqualTo(logits(false, IDS));
    }

    @Test
    void idsOutsideTheVocabularyAndTooManyAreRefused() {
        assertThatThrownBy(() -> logits(false, 3, VOCAB)).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("--ids: 11 is outside the vocabulary of 11");
        assertThatThrownBy(() -> logits(false, -1)).hasMessageContaining("-1 is outside");
        assertThatThrownBy(() -> logits(false, new int[9])).hasMessageContaining("1 to 8 token ids, got 9");
        assertThatThrownBy(() -> logits(false)).hasMessageContaining("got 0");
    }
}
