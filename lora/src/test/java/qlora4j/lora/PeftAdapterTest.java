package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Against an adapter that PEFT 0.21 saved after 12 training steps: rank 8 on the 7 linears of each of 3 layers. */
class PeftAdapterTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final List<String> NAMES = List.of("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj",
            "up_proj", "v_proj");
    private static final LoraConfig TINY = new LoraConfig(2, 4, 0.05, List.of("q_proj"), "base", 1);

    @TempDir
    private Path directory;

    private static Path golden() {
        return Path.of("..", "verify", "src", "test", "resources", "bundle", "llama", "lora_trained");
    }

    private static Map<String, AdapterWeights> tiny() {
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        modules.put("model.layers.0.self_attn.q_proj", new AdapterWeights(
                Tensor.of(new float[]{1, 2, 3, 4, 5, 6}, 2, 3), Tensor.of(new float[]{7, 8, 9, 10}, 2, 2)));
        return modules;
    }

    @Test
    void readsWhatPeftWrote() throws Exception {
        try (PeftAdapter adapter = PeftAdapter.open(golden())) {
            LoraConfig config = adapter.config();
            assertThat(config.rank()).isEqualTo(8);
            assertThat(config.alpha()).isEqualTo(16);
            assertThat(config.scale("model.layers.0.mlp.up_proj")).isEqualTo(2);
            assertThat(config.dropout()).isZero();
            assertThat(config.baseModelName()).isEqualTo("base");
            assertThat(config.targets().names()).containsExactlyInAnyOrderElementsOf(NAMES);
            assertThat(adapter.modules()).hasSize(21);
            AdapterWeights down = adapter.modules().get("model.layers.2.mlp.down_proj");
            assertThat(down.a().shape()).containsExactly(8, 176);
            assertThat(down.b().shape()).containsExactly(64, 8);
            assertThat(TargetModules.resolve(config, adapter.modules().keySet()))
                    .containsExactlyElementsOf(adapter.modules().keySet());
        }
    }

    @Test
    void writesTheBytesThatPeftWrites() throws Exception {
        try (PeftAdapter adapter = PeftAdapter.open(golden())) {
            PeftAdapter.write(directory, adapter.config(), adapter.modules());
        }
        assertThat(directory.resolve(PeftAdapter.WEIGHTS))
                .hasSameBinaryContentAs(golden().resolve(PeftAdapter.WEIGHTS));
        String written = Files.readString(directory.resolve(PeftAdapter.CONFIG));
        assertThat(withSortedTargets(written))
                .isEqualTo(withSortedTargets(Files.readString(golden().resolve(PeftAdapter.CONFIG))));
        assertThat(JSON.readTree(written).get("target_modules")).extracting(JsonNode::asText)
                .containsExactlyElementsOf(NAMES);
    }

    /** PEFT writes a set in an order of chance: the lines of the targets are sorted, all other text is kept. */
    private static List<String> withSortedTargets(String json) {
        List<String> lines = new ArrayList<>(json.lines().toList());
        int from = lines.indexOf("  \"target_modules\": [") + 1;
        int to = from + NAMES.size();
        List<String> targets = lines.subList(from, to).stream().map(line -> line.replace(",", "")).sorted().toList();
        for (int i = from; i < to; i++) {
            lines.set(i, targets.get(i - from));
        }
        return lines;
    }

    @Test
    void writesAllLinearAsNames() throws Exception {
        LoraConfig all = new LoraConfig(8, 0.5, 0.1, List.of(LoraConfig.ALL_LINEAR), null, 7);
        try (PeftAdapter adapter = PeftAdapter.open(golden())) {
            PeftAdapter.write(directory, all, adapter.modules());
        }
        try (PeftAdapter again = PeftAdapter.open(directory)) {
            assertThat(again.config()).isEqualTo(new LoraConfig(8, 0.5, 0.1, NAMES, null, 0));
        }
    }

    @Test
    void replacesAnAdapterAndLeavesNothingElse() throws Exception {
        PeftAdapter.write(directory, TINY, tiny());
        byte[] first = Files.readAllBytes(directory.resolve(PeftAdapter.CONFIG));
        PeftAdapter.write(directory, TINY, tiny());
        assertThat(directory.resolve(PeftAdapter.CONFIG)).hasBinaryContent(first);
        LoraConfig other = new LoraConfig(2, 8, 0, List.of("q_proj"), "Modèle", 1);
        PeftAdapter.write(directory, other, tiny());
        try (PeftAdapter again = PeftAdapter.open(directory)) {
            assertThat(again.config().alpha()).isEqualTo(8);
            assertThat(again.config().baseModelName()).isEqualTo("Modèle");
            assertThat(again.modules().get("model.layers.0.self_attn.q_proj").b().toFloats()).containsExactly(7, 8, 9,
                    10);
        }
        assertThat(directory).isDirectoryContaining("glob:**.json").isDirectoryContaining("glob:**.safetensors");
        try (var files = Files.list(directory)) {
            assertThat(files).hasSize(2);
        }
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"use_qalora | true",
            "fan_in_fan_out | true", "lora_bias | true", "ensure_weight_tying | true",
            "target_parameters | [\"w\"]",
            "alora_invocation_tokens | [5]", "layer_replication | [[0,2]]", "init_lora_weights | \"pissa\"",
            "use_bdlora | {\"nblocks\":2}", "arrow_config | {\"top_k\":1}",
            "velora_config | {\"scale\":1}", "kasa_config | {\"beta\":1}", "monteclora_config | {\"num_samples\":1}",
            "megatron_config | {\"x\":1}"})
    void refusesWhatChangesTheNumbers(String field, String value) throws IOException {
        edited(json -> json.set(field, tree(value)));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining(PeftAdapter.CONFIG).hasMessageContaining(field + " = " + value);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"peft_type | \"IA3\" | peft_type is \"IA3\"", "r | 2.5 | r is 2.5",
            "r | 0 | --lora-r 0", "lora_alpha | \"16\" | lora_alpha is \"16\"", "lora_alpha | -1 | --lora-alpha",
            "lora_dropout | 1 | --lora-dropout",
            "use_dora | true | lora_magnitude_vector is missing", "bias | \"some\" | --bias some",
            "rank_pattern | {\"q_proj\":6} | with the rank 6", "rank_pattern | {\"q_proj\":\"6\"} | a rank is",
            "alpha_pattern | {\"q_proj\":null} | an alpha is", "layers_to_transform | [3] | in layers [3]",
            "layers_to_transform | \"x\" | layers_to_transform is", "exclude_modules | [\"q_proj\"] | without q_proj",
            "exclude_modules | \".*q_proj\" | do not mean it", "target_modules | \".*v_proj\" | .*v_proj",
            "target_modules | \"(\" | not a regular expression", "modules_to_save | [\"self_attn\"] | do not mean it",
            "target_modules | [] | target_modules is []",
            "target_modules | [1] | target_modules is [1]",
            "target_modules | [\"v_proj\"] | module model.layers.0.self_attn.q_proj",
            "r | 3 | lora_A.weight is F32[2, 3]"})
    void refusesAMalformedField(String field, String value, String message) throws IOException {
        edited(json -> json.set(field, tree(value)));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining(directory.toString()).hasMessageContaining(message);
    }

    @ParameterizedTest
    @ValueSource(strings = {"r", "lora_alpha", "peft_type"})
    void refusesAMissingField(String field) throws IOException {
        edited(json -> json.remove(field));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining(field + " is missing");
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"inference_mode | false", "task_type | null", "loftq_config | null",
            "modules_to_save | []", "rank_pattern | null", "init_lora_weights | \"gaussian\"",
            "init_lora_weights | \"loftq\"",
            "peft_version | \"0.9.0\"", "revision | \"main\"", "lora_alpha | 4.0"})
    void acceptsWhatDoesNot(String field, String value) throws IOException {
        edited(json -> json.set(field, tree(value)));
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.config()).isEqualTo(new LoraConfig(2, 4, 0.05, List.of("q_proj"), "base", 0));
        }
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {"\"all-linear\" | all-linear",
            "\".*q_proj\" | .*q_proj", "null | model.layers.0.self_attn.q_proj"})
    void targetsMayBeAPatternOrLeftOut(String value, String expected) throws IOException {
        edited(json -> json.set("target_modules", tree(value)));
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.config().targets().toString()).isEqualTo(expected);
        }
    }

    @ParameterizedTest
    @CsvSource({"4, 2", "2, 1", "8, 1"})
    void refusesLoftqWhoseBaseIsAnother(int bits, int turns) throws IOException {
        edited(json -> json.put("init_lora_weights", "loftq").putObject("loftq_config").put("loftq_bits", bits)
                .put("loftq_iter", turns));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining("init_lora_weights = \"loftq\"");
    }

    @Test
    void unknownFieldsAreAWarning() throws IOException {
        edited(json -> json.put("use_everything", true));
        List<String> logged = new ArrayList<>();
        Handler handler = new Handler() {
            @Override
            public void publish(LogRecord entry) {
                logged.add(entry.getLevel() + " " + entry.getMessage());
            }

            @Override
            public void flush() {
            }

            @Override
            public void close() {
            }
        };
        Logger logger = Logger.getLogger(PeftAdapter.class.getName());
        logger.addHandler(handler);
        logger.setUseParentHandlers(false);
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.modules()).hasSize(1);
        } finally {
            logger.removeHandler(handler);
            logger.setUseParentHandlers(true);
        }
        assertThat(logged).singleElement().asString().startsWith("WARNING").contains("use_everything = true",
                PeftAdapter.CONFIG);
    }

    @Test
    void refusesJsonThatIsNone() throws IOException {
        PeftAdapter.write(directory, TINY, tiny());
        for (String text : List.of("{\"r\": 1, \"r\": 2}", "[]", "{", "{} {}", "")) {
            Files.writeString(directory.resolve(PeftAdapter.CONFIG), text);
            assertThatThrownBy(() -> PeftAdapter.open(directory)).as(text).isInstanceOf(IOException.class)
                    .hasMessageContaining(PeftAdapter.CONFIG).hasMessageContaining("JSON");
        }
    }

    @Test
    void refusesMissingFiles() throws IOException {
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining("no " + PeftAdapter.CONFIG);
        PeftAdapter.write(directory, TINY, tiny());
        Files.delete(directory.resolve(PeftAdapter.WEIGHTS));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageEndingWith("no " + PeftAdapter.WEIGHTS);
        Files.write(directory.resolve("adapter_model.bin"), new byte[]{'P', 'K'});
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining("adapter_model.bin").hasMessageContaining("save_pretrained");
    }

    @ParameterizedTest
    @ValueSource(strings = {"base_model.model.model.norm.weight",
            "base_model.model.x.q_proj.lora_B.bias", "base_model.model.x.q_proj.lora_A",
            "base_model.model.x.q_proj.lora_A.other.weight", "x.q_proj.lora_A.weight",
            "base_model.model.x.q_proj.lora_A.weight.default.weight", "base_model.model.lora_A.weight"})
    void refusesAnUnknownTensor(String name) throws IOException {
        tensors(writer -> writer.add(name, Tensor.zeros(DType.F32, 2, 3)));
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining(PeftAdapter.WEIGHTS).hasMessageContaining(name)
                .hasMessageContaining(" is not part of a LoRA adapter");
    }

    @Test
    void refusesTensorsThatDoNotFit() throws IOException {
        String q = "base_model.model.x.q_proj.lora_";
        Tensor a = Tensor.zeros(DType.F32, 2, 3);
        Tensor b = Tensor.zeros(DType.F32, 4, 2);
        refused(writer -> writer.add(q + "A.weight", a), q + "B.weight is missing");
        refused(writer -> writer.add(q + "B.weight", b), q + "A.weight is missing");
        refused(writer -> writer.add(q + "A.weight", a).add(q + "B.weight", Tensor.zeros(DType.F32, 2, 4)),
                q + "B.weight is F32[2, 4]; with the rank 2 of the configuration it must be [out, r]");
        refused(writer -> writer.add(q + "A.weight", Tensor.zeros(DType.F32, 6)).add(q + "B.weight", b),
                q + "A.weight is F32[6]; with the rank 2 of the configuration it must be [r, in]");
        refused(writer -> writer.add(q + "A.weight", Tensor.zeros(DType.I32, 2, 3)).add(q + "B.weight", b),
                q + "A.weight is I32[2, 3]; an adapter's tensors are one of");
        refused(writer -> writer.add(q + "A.weight", a).add(q + "A.default.weight", a).add(q + "B.weight", b),
                "is there twice");
        refused(_ -> {
        }, "the adapter has no tensors");
    }

    private void refused(Consumer<SafetensorsWriter> content, String message) throws IOException {
        tensors(content);
        assertThatThrownBy(() -> PeftAdapter.open(directory)).isInstanceOf(IOException.class)
                .hasMessageContaining(PeftAdapter.WEIGHTS).hasMessageContaining(message);
    }

    @Test
    void readsNamesInMemory() throws IOException {
        String q = "base_model.model.x.q_proj.lora_";
        tensors(writer -> writer.add(q + "A.default.weight", Tensor.zeros(DType.BF16, 2, 3))
                .add(q + "B.default.weight", Tensor.zeros(DType.F16, 4, 2)));
        try (PeftAdapter adapter = PeftAdapter.open(directory)) {
            assertThat(adapter.modules().keySet()).containsExactly("x.q_proj");
        }
    }

    @Test
    void refusesToWriteWhatItWouldNotRead() throws IOException {
        LoraConfig rank3 = new LoraConfig(3, 4, 0, List.of("q_proj"), null, 0);
        LoraConfig other = new LoraConfig(2, 4, 0, List.of("proj"), null, 0);
        assertThatThrownBy(() -> PeftAdapter.write(directory, rank3, tiny()))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("rank 3");
        assertThatThrownBy(() -> PeftAdapter.write(directory, other, tiny()))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("[proj]");
        assertThatThrownBy(() -> PeftAdapter.write(directory, TINY, Map.of()))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("no tensors");
        assertThat(directory).isEmptyDirectory();
    }

    private void edited(Consumer<ObjectNode> edit) throws IOException {
        PeftAdapter.write(directory, TINY, tiny());
        Path file = directory.resolve(PeftAdapter.CONFIG);
        ObjectNode json = (ObjectNode) JSON.readTree(Files.readAllBytes(file));
        edit.accept(json);
        Files.write(file, JSON.writeValueAsBytes(json));
    }

    private void tensors(Consumer<SafetensorsWriter> content) throws IOException {
        PeftAdapter.write(directory, TINY, tiny());
        SafetensorsWriter writer = new SafetensorsWriter();
        content.accept(writer);
        writer.write(directory.resolve(PeftAdapter.WEIGHTS));
    }

    private static JsonNode tree(String json) {
        try {
            return JSON.readTree(json);
        } catch (IOException e) {
            throw new IllegalArgumentException(json, e);
        }
    }
}
