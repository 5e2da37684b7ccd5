package qlora4j.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.CheckpointQuantizer;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ModelDirectory;
import qlora4j.model.RopeConfig;
import qlora4j.model.Tokenizer;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** A model that goes out as GGUF comes back as it was. */
class RoundTripTest {
    private static final String Q_PROJ = "model.layers.1.self_attn.q_proj.weight";
    private static final List<String> TEXTS = List.of("Hello world", "  two  spaces\n\n\tand more\n", "It's 12345.67!",
            "Grüße, 日本語 👍🏽", "<|im_start|>user\nhi<|im_end|>", "a", " ", "x = [1, 2]  # c");

    @TempDir
    private Path folder;

    private GgufExport.Report export(Path model, Path file, GgmlType type) throws IOException {
        try (ModelDirectory source = ModelDirectory.open(model); Backend backend = Backends.open("scalar")) {
            return GgufExport.model(source, file, type, null, backend);
        }
    }

    private Path there(Path model, GgmlType type, DType dtype) throws IOException {
        Path file = folder.resolve(model.getFileName() + "-" + type + ".gguf");
        Path back = folder.resolve(model.getFileName() + "-" + type);
        export(model, file, type);
        GgufImport.run(file, back, new GgufImport.Options(dtype, null, null));
        return back;
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            llama   | byte_level    | 480 | true  | {"attention_bias": true, "mlp_bias": true}
            llama   | byte_fallback | 640 | false | {}
            mistral | byte_level    | 470 | false | {"sliding_window": 9}
            mistral | byte_fallback | 650 | true  | {"sliding_window": null}
            qwen2   | byte_level    | 470 | true  | {}
            qwen3   | byte_level    | 470 | false | {"head_dim": 32}
            """)
    void everyTensorAndTokenComesBack(String modelType, String tokenizer, int vocab, boolean tied, String more)
            throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), modelType, tokenizer, vocab, tied, more);
        Path back = there(model, GgmlType.F32, null);
        sameModel(model, back);
    }

    private static void sameModel(Path model, Path back) throws IOException {
        try (ModelDirectory a = ModelDirectory.open(model); ModelDirectory b = ModelDirectory.open(back)) {
            assertThat(b.config()).isEqualTo(a.config());
            assertThat(b.generation().eosIds()).isEqualTo(a.generation().eosIds());
            assertThat(b.weights().names()).containsExactlyInAnyOrderElementsOf(a.weights().names());
            for (String name : a.weights().names()) {
                assertThat(a.weights().segment(name).mismatch(b.weights().segment(name))).as(name).isEqualTo(-1);
            }
            Tokenizer from = a.tokenizer();
            Tokenizer to = b.tokenizer();
            for (String text : TEXTS) {
                for (boolean special : new boolean[]{false, true}) {
                    assertThat(to.encode(text, special)).as(text).isEqualTo(from.encode(text, special));
                }
                int[] ids = from.encode(text, false);
                assertThat(to.decode(ids, false)).isEqualTo(from.decode(ids, false));
            }
            assertThat(to.vocabSize()).isEqualTo(from.vocabSize());
            assertThat(to.chatTemplateSources()).isEqualTo(from.chatTemplateSources());
            assertThat(List.of(to.bos(), to.eos(), to.pad(), to.unk())).isEqualTo(List.of(from.bos(), from.eos(), from
                    .pad(), from.unk()));
        }
    }

    @Test
    void llamaThreesScalingComesBack() throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), "llama", "byte_level", 470, true, """
                {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0,
                 "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}""");
        Path back = there(model, GgmlType.F32, null);
        sameModel(model, back);
        assertThat(back.resolve("config.json")).as("as transformers 4 reads it, too").content()
                .contains("\"rope_theta\"", "\"rope_scaling\"").doesNotContain("rope_parameters");
        float[] factors = RopeScaling.factors(DecoderConfig.read(model).rope(), 16);
        assertThat(factors).contains(1f, 32f).isSorted();
        factors[3] *= 1.01f;
        assertThat(RopeScaling.of(500000, factors)).isNull();
        RopeConfig other = new RopeConfig(10000, RopeConfig.Type.LLAMA3, 8, 1, 4, 64);
        assertThat(RopeScaling.of(10000, RopeScaling.factors(other, 64))).isEqualTo(other);
        assertThat(RopeScaling.of(500000, new float[]{1, 1})).isEqualTo(RopeConfig.unscaled(500000));
    }

    /** The converter's own words: reshape(heads, 2, headDim / 2).swapaxes(1, 2). */
    @Test
    void rowsOfQueriesAndKeysAreInterleaved() {
        RotaryLayout layout = RotaryLayout.of("llama", Q_PROJ, 2, 1, 8);
        assertThat(IntStream.range(0, 16).mapToLong(layout::huggingFaceRow)).containsExactly(0L, 4L, 1L, 5L, 2L, 6L, 3L,
                7L, 8L, 12L, 9L, 13L, 10L, 14L, 11L, 15L);
        for (int row = 0; row < 16; row++) {
            assertThat(layout.ggufRow(layout.huggingFaceRow(row))).isEqualTo(row);
        }
        assertThat(RotaryLayout.of("mistral", "model.layers.0.self_attn.k_proj.bias", 4, 2, 8))
                .isEqualTo(new RotaryLayout(2, 8));
        assertThat(RotaryLayout.of("llama", "model.layers.0.self_attn.v_proj.weight", 4, 2, 8)).isNull();
        assertThat(RotaryLayout.of("qwen2", Q_PROJ, 4, 2, 8)).isNull();
    }

    @ParameterizedTest
    @CsvSource({"F16, F16", "BF16, BF16", "Q8_0, F32"})
    void narrowerTypesHoldTheirRounding(GgmlType type, DType expected) throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        Path back = there(model, type, null);
        try (SafetensorsModel a = SafetensorsModel.open(model); SafetensorsModel b = SafetensorsModel.open(back)) {
            for (String name : a.names()) {
                assertThat(b.info(name).dtype()).as(name).isEqualTo(expected);
                float[] before = a.tensor(name).toFloats();
                float[] after = b.tensor(name).toFloats();
                boolean vector = a.info(name).shape().length == 1;
                for (int i = 0; i < before.length; i++) {
                    // Half an ulp of 11 or 8 bits, or of float16's subnormals. Q8_0: half a step of max|x| / 127 of
                    // the row's block, whose scale is rounded to 11 bits.
                    double bound = type == GgmlType.F16 ? Math.max(Math.abs(before[i]) * 0x1p-11, 0x1p-25)
                            : type == GgmlType.BF16 ? Math.abs(before[i]) * 0x1p-8
                                    : vector ? 0 : largest(before, i) / 127 * (0.5 + 127 * 0x1p-11) + 1e-6;
                    assertThat((double) after[i]).as("%s[%d]", name, i).isBetween(before[i] - bound, before[i]
                            + bound);
                }
            }
        }
    }

    private static double largest(float[] values, int i) {
        double largest = 0;
        for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++) {
            largest = Math.max(largest, Math.abs(values[j]));
        }
        return largest;
    }

    @Test
    void rowsThatAreNoBlocksAreHalves() throws IOException {
        Path model = TinyModel.write(folder.resolve("model"), "llama", "byte_level", 470, true,
                "{\"intermediate_size\": 40}");
        GgufExport.Report report = export(model, folder.resolve("m.gguf"), GgmlType.Q8_0);
        assertThat(report.notes()).singleElement().asString().contains("2 matrices").contains("F16");
        try (Gguf gguf = Gguf.open(folder.resolve("m.gguf"))) {
            assertThat(gguf.tensors().get("blk.0.ffn_down.weight").type()).isEqualTo(GgmlType.F16);
            assertThat(gguf.tensors().get("blk.0.ffn_up.weight").type()).isEqualTo(GgmlType.Q8_0);
            assertThat(gguf.tensors().get("blk.0.attn_norm.weight").type()).isEqualTo(GgmlType.F32);
        }
    }

    /** Dequantized is what a checkpoint in 4 bits goes out as. */
    @Test
    void aModelInFourBitsGoesOutDequantized() throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        Path packed = folder.resolve("packed");
        try (ModelDirectory source = ModelDirectory.open(model); Backend backend = Backends.open("scalar")) {
            CheckpointQuantizer.quantize(source, packed, QuantConfig.QLORA, DType.F32, backend, layer -> {
            });
        }
        assertThat(export(packed, folder.resolve("p.gguf"), GgmlType.F32).notes()).singleElement().asString()
                .contains("4 bits");
        GgufImport.run(folder.resolve("p.gguf"), folder.resolve("back"), GgufImport.Options.NONE);
        try (SafetensorsModel a = SafetensorsModel.open(packed);
                SafetensorsModel b = SafetensorsModel.open(folder.resolve("back"));
                Backend backend = Backends.open("scalar");
                Stream stream = backend.openStream()) {
            QuantizedTensor w = Bnb4bit.read(a, Q_PROJ);
            Tensor dense = Tensor.zeros(DType.F32, w.shape());
            Blockwise.dequantize(stream, w, dense);
            assertThat(b.tensor(Q_PROJ).toFloats()).isEqualTo(dense.toFloats());
        }
    }

    @Test
    void nothingIsOverwritten() throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        Path file = folder.resolve("m.gguf");
        export(model, file, GgmlType.F16);
        assertThatThrownBy(() -> export(model, file, GgmlType.F16)).hasMessageContaining("exists already");
        assertThatThrownBy(() -> GgufImport.run(file, model, GgufImport.Options.NONE))
                .hasMessageContaining("a model is there already");
    }

    @Test
    void anAdapterComesBack() throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        Random random = new Random(5);
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        for (String module : List.of("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj",
                "model.layers.1.mlp.down_proj")) {
            long in = module.endsWith("down_proj") ? 96 : 64;
            long out = module.endsWith("k_proj") ? 32 : 64;
            modules.put(module, new AdapterWeights(random(random, 4, in), random(random, out, 4)));
        }
        LoraConfig config = new LoraConfig(4, 12, 0, List.of("q_proj", "k_proj", "down_proj"), model.toString(), 0);
        PeftAdapter.write(folder.resolve("adapter"), config, modules);
        Path file = folder.resolve("a.gguf");
        AdapterExport.run(folder.resolve("adapter"), model, file, GgmlType.F32);
        try (Gguf gguf = Gguf.open(file)) {
            assertThat(gguf.metadata().number("adapter.lora.alpha")).isEqualTo(12);
            assertThat(gguf.tensors()).containsOnlyKeys("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b",
                    "blk.1.attn_k.weight.lora_a", "blk.1.attn_k.weight.lora_b", "blk.1.ffn_down.weight.lora_a",
                    "blk.1.ffn_down.weight.lora_b");
        }
        assertThatThrownBy(() -> GgufImport.run(file, folder.resolve("back"), GgufImport.Options.NONE))
                .hasMessageContaining("--base");
        GgufImport.run(file, folder.resolve("back"), new GgufImport.Options(null, null, model));
        try (PeftAdapter back = PeftAdapter.open(folder.resolve("back"))) {
            assertThat(back.config().rank()).isEqualTo(4);
            back.modules().keySet().forEach(m -> assertThat(back.config().scale(m)).isEqualTo(3));
            assertThat(back.modules()).containsOnlyKeys(modules.keySet());
            back.modules().forEach((module, w) -> {
                assertThat(w.a().toFloats()).isEqualTo(modules.get(module).a().toFloats());
                assertThat(w.b().toFloats()).isEqualTo(modules.get(module).b().toFloats());
            });
        }
    }

    /** One alpha is all that a file has: what else a module's scale asks for is in its B. */
    @Test
    void scalesAndRanksOfTheirOwnAreKept() throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        Random random = new Random(5);
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        modules.put("model.layers.0.self_attn.v_proj",
                new AdapterWeights(random(random, 4, 64), random(random, 32, 4)));
        modules.put("model.layers.0.mlp.up_proj", new AdapterWeights(random(random, 9, 64), random(random, 96, 9)));
        LoraConfig config = new LoraConfig(4, 12, 0, List.of("v_proj", "up_proj"), model.toString(), 0)
                .withPatterns(Map.of("up_proj", 9), Map.of("up_proj", 6.0)).withVariant(true, false);
        PeftAdapter.write(folder.resolve("adapter"), config, modules);
        Path file = folder.resolve("a.gguf");
        AdapterExport.run(folder.resolve("adapter"), model, file, GgmlType.F32);
        GgufImport.run(file, folder.resolve("back"), new GgufImport.Options(null, null, model));
        try (PeftAdapter back = PeftAdapter.open(folder.resolve("back"))) {
            modules.forEach((module, w) -> {
                assertThat(back.config().rank(module)).isEqualTo(config.rank(module));
                float[] before = w.b().toFloats();
                float[] after = back.modules().get(module).b().toFloats();
                for (int i = 0; i < before.length; i++) {
                    // Two roundings to float32.
                    double expected = before[i] * config.scale(module);
                    assertThat(after[i] * back.config().scale(module)).isCloseTo(expected,
                            org.assertj.core.data.Offset.offset(Math.abs(expected) * 0x1p-22));
                }
            });
        }
        PeftAdapter.write(folder.resolve("whole"), config.withVariant(false, false).withPatterns(Map.of(), Map.of())
                .withTrained(LoraConfig.Bias.NONE, List.of("lm_head")),
                Map.of("model.layers.0.self_attn.v_proj",
                        modules.get("model.layers.0.self_attn.v_proj")),
                Map.of("lm_head.weight", random(random, 480,
                        64)),
                Map.of());
        assertThatThrownBy(() -> AdapterExport.run(folder.resolve("whole"), model, folder.resolve("w.gguf"),
                GgmlType.F32)).hasMessageContaining("lm_head").hasMessageContaining("merge it");
    }

    private static Tensor random(Random random, long rows, long cols) {
        float[] values = new float[(int) (rows * cols)];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return Tensor.of(values, rows, cols);
    }

    /** Two ways to write merges, and pre-tokenizers that llama.cpp has no name for. */
    @Test
    void tokenizersInOtherSpellings() throws IOException {
        Path model = TinyModel.llama(folder.resolve("model"));
        JsonMapper mapper = new JsonMapper();
        Path tokenizer = model.resolve("tokenizer.json");
        JsonNode json = mapper.readTree(tokenizer.toFile());
        String text = json.toString();
        StringBuilder merges = new StringBuilder();
        for (JsonNode merge : json.path("model").path("merges")) {
            merges.append(merges.isEmpty() ? "" : ",").append(mapper.writeValueAsString(merge.get(0).asText() + " "
                    + merge.get(1).asText()));
        }
        Files.writeString(tokenizer, text.replace(json.path("model").path("merges").toString(), "[" + merges + "]"));
        sameModel(model, there(model, GgmlType.F32, null));
        Files.writeString(tokenizer, text.replace("{1,3}", "{1,7}"));
        assertThatThrownBy(() -> export(model, folder.resolve("x.gguf"), GgmlType.F16)).isInstanceOf(IOException.class)
                .hasMessageContaining("--pre");
    }
}
