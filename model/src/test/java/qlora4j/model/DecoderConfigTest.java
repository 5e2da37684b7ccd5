package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.blockwise.QuantType;
import qlora4j.model.DecoderConfig.Architecture;
import qlora4j.tensor.DType;

class DecoderConfigTest {
    @TempDir
    Path directory;

    private static ObjectNode json(String golden) throws IOException {
        return JsonFile.read(Golden.path(golden)).fields();
    }

    /** A recorded configuration, changed, and read. */
    private DecoderConfig changed(String model, Consumer<ObjectNode> change) throws IOException {
        ObjectNode json = json(model + "/base/config.json");
        change.accept(json);
        Path file = directory.resolve("config.json");
        JsonFile.MAPPER.writeValue(file.toFile(), json);
        return DecoderConfig.read(directory);
    }

    @Test
    void readsTheRecordedConfigurations() throws IOException {
        DecoderConfig llama = DecoderConfig.read(Golden.path("llama/base"));
        assertThat(llama)
                .isEqualTo(new DecoderConfig(Architecture.LLAMA, 320, 64, 176, 3, 4, 2, 16, 1e-5, 128, false, 0, 0,
                        RopeConfig.unscaled(10000), false, false, false, false, DType.F32, "silu", OptionalInt.of(1),
                        List.of(2),
                        OptionalInt.of(0), null));
        DecoderConfig llama3 = DecoderConfig.read(Golden.path("llama3/base/config.json"));
        assertThat(llama3.rope()).isEqualTo(new RopeConfig(500000, RopeConfig.Type.LLAMA3, 8, 1, 4, 32));
        assertThat(llama3.tieWordEmbeddings()).isTrue();
        DecoderConfig mistral = DecoderConfig.read(Golden.path("mistral/base"));
        assertThat(mistral.architecture()).isEqualTo(Architecture.MISTRAL);
        assertThat(mistral.slidingWindow()).isEqualTo(9);
        DecoderConfig qwen2 = DecoderConfig.read(Golden.path("qwen2/base"));
        assertThat(List.of(qwen2.qkvBias(), qwen2.outputBias(), qwen2.mlpBias(), qwen2.qkNorm()))
                .containsExactly(true, false, false, false);
        assertThat(qwen2.slidingWindow()).isZero();
        DecoderConfig qwen3 = DecoderConfig.read(Golden.path("qwen3/base"));
        assertThat(List.of(qwen3.qkvBias(), qwen3.outputBias(), qwen3.mlpBias(), qwen3.qkNorm()))
                .containsExactly(false, false, false, true);
        assertThat(qwen3.headDim()).isEqualTo(32);
    }

    @Test
    void aWindowInTheUpperLayersOnly() throws IOException {
        DecoderConfig config = changed("qwen3", c -> c.put("use_sliding_window", true).put("sliding_window", 7)
                .put("max_window_layers", 2).remove("layer_types"));
        assertThat(new int[]{config.slidingWindow(0), config.slidingWindow(1), config.slidingWindow(2)})
                .containsExactly(0, 0, 7);
        assertThat(changed("qwen3", c -> {
            c.removeAll();
            c.setAll(config.toJson(JsonFile.MAPPER.createObjectNode()));
        })).isEqualTo(config);
        assertThatThrownBy(() -> changed("qwen2", c -> ((com.fasterxml.jackson.databind.node.ArrayNode) c
                .get("layer_types")).set(1, "sliding_attention"))).isInstanceOf(ModelFormatException.class)
                .hasMessageContaining("layer_types").hasMessageContaining("layer 1");
    }

    @ParameterizedTest
    @ValueSource(strings = {"rope_type", "type"})
    void theOldSpellingOfRopeGivesTheSame(String typeField) throws IOException {
        assertThat(changed("llama", c -> {
            c.remove("rope_parameters");
            c.put("rope_theta", 250000.0).putNull("rope_scaling");
        }).rope()).isEqualTo(RopeConfig.unscaled(250000));
        DecoderConfig old = changed("llama3", c -> {
            ObjectNode scaling = ((ObjectNode) c.remove("rope_parameters"));
            c.set("rope_theta", scaling.remove("rope_theta"));
            scaling.set(typeField, scaling.remove("rope_type"));
            c.set("rope_scaling", scaling);
        });
        assertThat(old).isEqualTo(DecoderConfig.read(Golden.path("llama3/base")));
    }

    @Test
    void whatIsLeftOutIsWhatTransformersAssumes() throws IOException {
        DecoderConfig llama = changed("llama", c -> c.remove(List.of("num_key_value_heads", "head_dim", "rms_norm_eps",
                "rope_parameters", "hidden_act", "dtype", "pad_token_id", "tie_word_embeddings",
                "max_position_embeddings")));
        assertThat(llama.kvHeads()).isEqualTo(4);
        assertThat(llama.headDim()).isEqualTo(16);
        assertThat(llama.rmsNormEps()).isEqualTo(1e-6);
        assertThat(llama.rope()).isEqualTo(RopeConfig.unscaled(10000));
        assertThat(llama.dtype()).isNull();
        assertThat(llama.padId()).isEmpty();
        assertThat(llama.maxPositions()).isEqualTo(2048);
        assertThat(changed("qwen3", c -> c.remove("head_dim")).headDim()).isEqualTo(128);
        assertThat(changed("qwen2", c -> c.put("num_attention_heads", 32).remove("num_key_value_heads")).kvHeads())
                .isEqualTo(32);
        assertThat(changed("mistral", c -> c.remove("sliding_window")).slidingWindow()).isEqualTo(4096);
        assertThat(changed("mistral", c -> c.putNull("sliding_window")).slidingWindow()).isZero();
        assertThat(changed("llama", c -> c.put("sliding_window", 7)).slidingWindow()).isZero();
        assertThat(changed("llama", c -> c.put("pad_token_id", -1)).padId()).isEmpty();
        assertThat(changed("llama", c -> c.putArray("eos_token_id").add(5).add(9)).eosIds()).containsExactly(5, 9);
        assertThat(changed("llama", c -> c.put("torch_dtype", "bfloat16").remove("dtype")).dtype())
                .isEqualTo(DType.BF16);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
            "\"model_type\":\"deepseek_v2\",\"kv_lora_rank\":4|llama, mistral, qwen2, qwen3|latent attention",
            "\"model_type\":\"gemma2\",\"hidden_act\":\"gelu\",\"attn_logit_softcapping\":50.0|through tanh"
                    + "|activation gelu",
            "\"model_type\":\"phimoe\",\"num_local_experts\":16|model_type \"phimoe\"|mixture of experts",
            "\"model_type\":\"mine\"|model_type \"mine\"|No field says how it differs",
            "\"model_type\":null|\"model_type\" is missing|supported are",
            "\"hidden_act\":\"gelu\"|hidden_act \"gelu\"|silu",
            "\"rope_parameters\":{\"rope_type\":\"yarn\"}|rope type \"yarn\"|default and llama3",
            "\"rope_parameters\":{\"rope_type\":\"llama3\"}|llama3 lacks|factor",
            "\"rope_parameters\":{\"partial_rotary_factor\":0.5}|partial_rotary_factor|0.5",
            "\"rope_scaling\":{\"type\":\"llama3\"}|rope_scaling|disagree",
            "\"dtype\":\"int8\"|dtype \"int8\"|bfloat16",
            "\"vocab_size\":null|vocab_size|missing", "\"vocab_size\":\"many\"|vocab_size|whole number",
            "\"num_key_value_heads\":3|num_key_value_heads 3|4", "\"head_dim\":15|head_dim 15|odd",
            "\"hidden_size\":0|hidden_size 0|positive", "\"rms_norm_eps\":0|rms_norm_eps|positive",
            "\"head_dim\":null,\"hidden_size\":66|hidden_size 66|num_attention_heads 4",
            "\"quantization_config\":{\"quant_method\":\"gptq\"}|gptq|4-bit ones of bitsandbytes",
            "\"quantization_config\":{\"load_in_8bit\":true}|not in 4 bits|bitsandbytes",
            "\"quantization_config\":{\"load_in_4bit\":true,\"bnb_4bit_quant_storage\":\"bfloat16\"}|stored as|uint8",
            "\"quantization_config\":{\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"int4\"}|int4|nf4"})
    void whatIsNotSupportedIsNamedWithItsFile(String change, String names, String says) throws IOException {
        ObjectNode other = (ObjectNode) JsonFile.MAPPER.readTree("{" + change + "}");
        assertThatThrownBy(() -> changed("llama", c -> c.setAll(other))).isInstanceOf(ModelFormatException.class)
                .hasMessageContaining(directory.resolve("config.json").toString()).hasMessageContaining(names)
                .hasMessageContaining(says);
    }

    @Test
    void damagedFilesAreRefused() throws IOException {
        Path file = directory.resolve("config.json");
        for (String text : new String[]{"{", "[1]", "{} {}", "{\"a\":1,\"a\":2}", ""}) {
            Files.writeString(file, text);
            assertThatThrownBy(() -> DecoderConfig.read(file)).as(text).isInstanceOf(ModelFormatException.class)
                    .hasMessageContaining(file.toString());
        }
    }

    @Test
    void readsAndWritesTheQuantizationAsTransformersDoes() throws IOException {
        ObjectNode quantized = json("llama/bnb4bit/config.json");
        DecoderConfig config = DecoderConfig.read(Golden.path("llama/bnb4bit/config.json"));
        Quantization4bit nf4 = new Quantization4bit(QuantType.NF4, true, DType.F32, List.of());
        assertThat(config.quantization()).isEqualTo(nf4);
        DecoderConfig dense = DecoderConfig.read(Golden.path("llama/base"));
        assertThat(dense.quantization()).isNull();
        assertThat(dense.withQuantization(nf4)).isEqualTo(config);
        assertThat(dense.withQuantization(nf4).toJson(json("llama/base/config.json"))).isEqualTo(quantized);
        assertThat(config.withQuantization(null).toJson(quantized)).isEqualTo(json("llama/base/config.json"));
        assertThat(changed("llama", c -> c.set("quantization_config", quantized.get("quantization_config").deepCopy())))
                .isEqualTo(config);
    }

    @Test
    void writingKeepsWhatItDoesNotKnowAndTheSpelling() throws IOException {
        for (String model : new String[]{"llama", "llama3", "mistral", "qwen2", "qwen3"}) {
            ObjectNode source = json(model + "/base/config.json");
            DecoderConfig config = DecoderConfig.read(Golden.path(model + "/base"));
            assertThat(config.toJson(source)).isEqualTo(source);
            DecoderConfig again = changed("llama", c -> {
                c.removeAll();
                c.setAll(config.toJson(JsonFile.MAPPER.createObjectNode()));
            });
            assertThat(again).isEqualTo(config);
        }
        DecoderConfig bf16 = DecoderConfig.read(Golden.path("llama3/base")).withDtype(DType.BF16);
        ObjectNode old = (ObjectNode) JsonFile.MAPPER.readTree(
                "{\"rope_theta\": 1.0, \"rope_scaling\": {\"type\": \"llama3\"}, \"torch_dtype\": \"float32\", \"mine\": [1]}");
        ObjectNode written = bf16.toJson(old);
        assertThat(written.get("mine")).isEqualTo(old.get("mine"));
        assertThat(written.has("dtype")).isFalse();
        assertThat(written.get("torch_dtype").textValue()).isEqualTo("bfloat16");
        assertThat(written.has("rope_parameters")).isFalse();
        assertThat(written.get("rope_scaling").has("type")).isFalse();
        assertThat(changed("llama", c -> {
            c.removeAll();
            c.setAll(written);
        })).isEqualTo(bf16);
    }
}
