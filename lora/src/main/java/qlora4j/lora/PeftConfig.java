package qlora4j.lora;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.json.JsonWriteFeature;
import com.fasterxml.jackson.core.util.DefaultIndenter;
import com.fasterxml.jackson.core.util.DefaultPrettyPrinter;
import com.fasterxml.jackson.core.util.Separators;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** PEFT's {@code adapter_config.json}: the fields of its {@code LoraConfig} at release 0.21.0. */
final class PeftConfig {
    private static final String PEFT_VERSION = "0.21.0";
    private static final String PEFT_TYPE = "LORA";

    private static final String TARGETS = "target_modules";
    private static final String INIT = "init_lora_weights";
    private static final String R = "r";
    private static final String ALPHA = "lora_alpha";
    private static final String DROPOUT = "lora_dropout";
    private static final String TYPE = "peft_type";
    private static final String VERSION = "peft_version";
    private static final String BASE = "base_model_name_or_path";

    /** An adapter without any extension, as PEFT writes it: every field it knows. */
    private static final String NEUTRAL = """
            {"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
             "base_model_name_or_path": null, "bias": "none", "corda_config": null, "ensure_weight_tying": false,
             "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
             "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
             "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false,
             "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null,
             "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null,
             "peft_type": null, "peft_version": null, "qalora_group_size": 16, "r": 8, "rank_pattern": {},
             "revision": null, "target_modules": [], "target_parameters": null, "task_type": "CAUSAL_LM",
             "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
             "use_rslora": false, "velora_config": null}""";

    /**
     * Fields that say nothing about the numbers of a finished adapter, or only through another field that is checked:
     * the configurations of initializations through {@code init_lora_weights}, the group size through use_qalora.
     */
    private static final Set<String> FREE = Set.of("auto_mapping", BASE, "inference_mode", "megatron_core",
            VERSION, "revision", "task_type", "qalora_group_size", "corda_config", "eva_config",
            "loftq_config", "lora_ga_config");

    /** Initializations that leave the base model's weights as they are. */
    private static final Set<String> PLAIN_INIT = Set.of("true", "false", "gaussian", "orthogonal");

    private static final JsonMapper JSON = JsonMapper.builder().enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).enable(JsonWriteFeature.ESCAPE_NON_ASCII).build();

    private PeftConfig() {
    }

    /**
     * What was read.
     *
     * @param targets the names in {@code target_modules}; null where the file holds none or a pattern
     * @param unknown fields that PEFT's release does not have
     */
    record Read(int rank, double alpha, double dropout, String base, List<String> targets, List<String> unknown) {
        /** The config of an adapter on {@code modules}, which stand in for targets that are not names. */
        LoraConfig config(Collection<String> modules) {
            return new LoraConfig(rank, alpha, dropout, targets == null ? List.copyOf(modules) : targets, base, 0);
        }
    }

    /** Parses {@code utf8}, the content of {@code file}, and refuses what this library would compute wrongly. */
    static Read read(Path file, byte[] utf8) throws IOException {
        JsonNode json;
        try {
            json = JSON.readTree(utf8);
        } catch (JacksonException e) {
            throw new IOException(file + ": not valid JSON: " + e.getOriginalMessage(), e);
        }
        if (!json.isObject()) {
            throw new IOException(file + ": not a JSON object, so not an adapter's configuration");
        }
        ObjectNode neutral = neutral();
        String type = json.path(TYPE).asText("");
        if (!type.equals(PEFT_TYPE)) {
            throw new IOException(file + ": peft_type is " + shown(json.get(TYPE)) + "; only " + PEFT_TYPE
                    + " adapters can be read");
        }
        List<String> unknown = new ArrayList<>();
        for (Map.Entry<String, JsonNode> field : json.properties()) {
            JsonNode expected = neutral.get(field.getKey());
            if (expected == null) {
                unknown.add(field.getKey() + " = " + field.getValue());
            } else if (!supported(field.getKey(), field.getValue(), expected)) {
                throw new IOException(file + ": " + field.getKey() + " = " + field.getValue()
                        + " is not supported (only " + expected
                        + " is), and without it the adapter would be another one");
            }
        }
        JsonNode rank = json.get(R);
        if (rank == null || !rank.isIntegralNumber() || !rank.canConvertToInt()) {
            throw new IOException(file + ": " + R + " is " + shown(rank) + "; it must be a whole number, the rank");
        }
        JsonNode base = json.path(BASE);
        try {
            Read read = new Read(rank.intValue(), number(file, json, ALPHA), json.hasNonNull(DROPOUT)
                    ? number(file, json, DROPOUT)
                    : 0, base.isTextual() ? base.textValue() : null, targets(file, json.path(TARGETS)), unknown);
            read.config(List.of(LoraConfig.ALL_LINEAR));
            return read;
        } catch (IllegalArgumentException e) {
            throw new IOException(file + ": " + e.getMessage(), e);
        }
    }

    private static boolean supported(String name, JsonNode value, JsonNode expected) {
        return switch (name) {
            case R, ALPHA, DROPOUT, TARGETS, TYPE -> true;
            case INIT -> value.isNull() || PLAIN_INIT.contains(value.asText());
            default -> FREE.contains(name) || value.equals(expected) || value.isNull()
                    || value.isContainerNode() && value.isEmpty();
        };
    }

    private static double number(Path file, JsonNode json, String name) throws IOException {
        JsonNode value = json.get(name);
        if (value == null || !value.isNumber()) {
            throw new IOException(file + ": " + name + " is " + shown(value) + "; it must be a number");
        }
        return value.doubleValue();
    }

    /** The listed names; null where none are given, or a pattern: then the tensors say which modules. */
    private static List<String> targets(Path file, JsonNode value) throws IOException {
        if (value.asText("").equals(LoraConfig.ALL_LINEAR)) {
            return List.of(LoraConfig.ALL_LINEAR);
        }
        if (value.isMissingNode() || value.isNull() || value.isTextual()) {
            return null;
        }
        List<String> targets = new ArrayList<>();
        for (JsonNode target : value) {
            targets.add(target.textValue());
        }
        if (!value.isArray() || targets.isEmpty() || targets.contains(null)) {
            throw new IOException(file + ": " + TARGETS + " is " + value + "; it must be a list of names");
        }
        return targets;
    }

    private static String shown(JsonNode value) {
        return value == null ? "missing" : value.toString();
    }

    /**
     * The file for {@code config} on {@code modules}: fields sorted by name as PEFT writes them, targets sorted, and
     * {@link LoraConfig#ALL_LINEAR} as the names it stands for.
     */
    static byte[] write(LoraConfig config, Collection<String> modules) throws IOException {
        ObjectNode json = neutral();
        json.put(TYPE, PEFT_TYPE);
        json.put(VERSION, PEFT_VERSION);
        json.put(BASE, config.baseModelName());
        json.put(R, config.rank());
        if (config.alpha() == (int) config.alpha()) {
            json.put(ALPHA, (int) config.alpha());
        } else {
            json.put(ALPHA, config.alpha());
        }
        json.put(DROPOUT, config.dropout());
        ArrayNode targets = json.putArray(TARGETS);
        new TreeSet<>(config.allLinear() ? TargetModules.names(modules) : config.targetModules()).forEach(targets::add);
        return JSON.writer(printer()).writeValueAsString(json).getBytes(StandardCharsets.UTF_8);
    }

    private static ObjectNode neutral() throws IOException {
        return (ObjectNode) JSON.readTree(NEUTRAL);
    }

    /** Python's {@code json.dumps(indent=2)}. */
    private static DefaultPrettyPrinter printer() {
        DefaultIndenter lines = new DefaultIndenter("  ", "\n");
        return new DefaultPrettyPrinter(Separators.createDefaultInstance()
                .withObjectFieldValueSpacing(Separators.Spacing.AFTER).withObjectEmptySeparator("")
                .withArrayEmptySeparator("")).withObjectIndenter(lines).withArrayIndenter(lines);
    }
}
