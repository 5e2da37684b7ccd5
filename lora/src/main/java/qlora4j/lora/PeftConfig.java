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
import java.io.CharConversionException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
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
    private static final String EXCLUDE = "exclude_modules";
    private static final String LAYERS = "layers_to_transform";
    private static final String LAYERS_PATTERN = "layers_pattern";
    private static final String RANKS = "rank_pattern";
    private static final String ALPHAS = "alpha_pattern";
    private static final String RSLORA = "use_rslora";
    private static final String DORA = "use_dora";
    private static final String BIAS = "bias";
    private static final String SAVED = "modules_to_save";
    private static final String TOKENS = "trainable_token_indices";
    private static final String LOFTQ = "loftq";
    private static final Set<String> READ = Set.of(TARGETS, R, ALPHA, DROPOUT, TYPE, EXCLUDE, LAYERS, LAYERS_PATTERN,
            RANKS, ALPHAS, RSLORA, DORA, BIAS, SAVED, TOKENS);

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
    private static final Set<String> PLAIN_INIT = Set.of("true", "false", "gaussian", "orthogonal", "eva");

    private static final JsonMapper JSON = JsonMapper.builder().enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).enable(JsonWriteFeature.ESCAPE_NON_ASCII).build();

    private PeftConfig() {
    }

    /**
     * What was read.
     *
     * @param config with the targets that the file names; where it names none, every linear layer
     * @param targeted whether it names any: if not, the modules with tensors are the targets
     * @param unknown fields that PEFT's release does not have
     */
    record Read(LoraConfig config, boolean targeted, List<String> unknown) {
        /** The config of an adapter on {@code modules}, which stand in for targets that the file leaves out. */
        LoraConfig config(Collection<String> modules) {
            return targeted || modules.isEmpty()
                    ? config
                    : config.withTargets(TargetModules.named(List.copyOf(modules)));
        }
    }

    /** Parses {@code utf8}, the content of {@code file}, and refuses what this library would compute wrongly. */
    static Read read(Path file, byte[] utf8) throws IOException {
        JsonNode json;
        try {
            json = JSON.readTree(utf8);
        } catch (JacksonException e) {
            throw new IOException(file + ": not valid JSON: " + e.getOriginalMessage(), e);
        } catch (CharConversionException e) {
            throw new IOException(file + ": not valid JSON: not in UTF-8: " + e.getMessage(), e);
        }
        if (!json.isObject()) {
            throw new IOException(file + ": not a JSON object, so not an adapter's configuration");
        }
        ObjectNode neutral = neutral();
        String type = json.path(TYPE).asText("");
        if (!type.equals(PEFT_TYPE)) {
            throw new UnsupportedAdapterException(file + ": peft_type is " + shown(json.get(TYPE)) + "; only "
                    + PEFT_TYPE + " adapters can be read", "peft_type = " + shown(json.get(TYPE)));
        }
        List<String> unknown = new ArrayList<>();
        for (Map.Entry<String, JsonNode> field : json.properties()) {
            JsonNode expected = neutral.get(field.getKey());
            if (expected == null) {
                unknown.add(field.getKey() + " = " + field.getValue());
            } else if (!supported(json, field.getKey(), field.getValue(), expected)) {
                String feature = field.getKey() + " = " + field.getValue();
                throw new UnsupportedAdapterException(file + ": " + feature + " is not supported (only " + expected
                        + " is), and without it the adapter would be another one", feature);
            }
        }
        JsonNode rank = json.get(R);
        if (rank == null || !rank.isIntegralNumber() || !rank.canConvertToInt()) {
            throw new IOException(file + ": " + R + " is " + shown(rank) + "; it must be a whole number, the rank");
        }
        JsonNode base = json.path(BASE);
        JsonNode targets = json.path(TARGETS);
        boolean targeted = !targets.isMissingNode() && !targets.isNull();
        try {
            return new Read(new LoraConfig(rank.intValue(), number(file, json, ALPHA),
                    json.hasNonNull(DROPOUT) ? number(file, json, DROPOUT) : 0, targets(file, json, targeted),
                    patterns(file, json), flag(file, json, RSLORA), flag(file, json, DORA),
                    LoraConfig.Bias.named(json.path(BIAS).asText("none")), names(file, json, SAVED),
                    tokens(file, json), LoraConfig.Init.KAIMING, base.isTextual() ? base.textValue() : null, 0),
                    targeted, unknown);
        } catch (IllegalArgumentException e) {
            throw new IOException(file + ": " + e.getMessage(), e);
        }
    }

    private static boolean supported(JsonNode json, String name, JsonNode value, JsonNode expected) {
        return switch (name) {
            case INIT -> value.isNull() || PLAIN_INIT.contains(value.asText())
                    || value.asText().equals(LOFTQ) && oneTurn(json.path("loftq_config"));
            default -> READ.contains(name) || FREE.contains(name) || value.equals(expected) || value.isNull()
                    || value.isContainerNode() && value.isEmpty();
        };
    }

    /**
     * Whether LoftQ left the base as quantizing to 4 bits makes it, which is how it is held here. With more turns PEFT
     * computes another base from the dense weights each time it loads the adapter.
     */
    private static boolean oneTurn(JsonNode loftq) {
        return loftq.path("loftq_bits").asInt(4) == 4 && loftq.path("loftq_iter").asInt(1) == 1;
    }

    /** False where the field is missing or null. */
    private static boolean flag(Path file, JsonNode json, String name) throws IOException {
        JsonNode value = json.path(name);
        if (!value.isBoolean() && !value.isMissingNode() && !value.isNull()) {
            throw new IOException(file + ": " + name + " is " + value + "; it must be true or false");
        }
        return value.asBoolean();
    }

    private static double number(Path file, JsonNode json, String name) throws IOException {
        JsonNode value = json.get(name);
        if (value == null || !value.isNumber()) {
            throw new IOException(file + ": " + name + " is " + shown(value) + "; it must be a number");
        }
        return value.doubleValue();
    }

    private static TargetModules targets(Path file, JsonNode json, boolean targeted) throws IOException {
        JsonNode value = json.path(TARGETS);
        boolean all = !targeted || value.asText("").equalsIgnoreCase(LoraConfig.ALL_LINEAR);
        String pattern = !all && value.isTextual() ? value.textValue() : null;
        List<String> names = all ? List.of(LoraConfig.ALL_LINEAR) : names(file, json, TARGETS);
        if (!all && pattern == null && names.isEmpty()) {
            throw new IOException(file + ": " + TARGETS + " is " + value + "; it must be a list of names");
        }
        boolean regex = json.path(EXCLUDE).isTextual();
        List<Integer> layers = new ArrayList<>();
        for (JsonNode layer : json.path(LAYERS).isArray() ? json.path(LAYERS) : List.of(json.path(LAYERS))) {
            if (layer.isIntegralNumber() && layer.canConvertToInt()) {
                layers.add(layer.intValue());
            } else if (!layer.isMissingNode() && !layer.isNull()) {
                throw new IOException(file + ": " + LAYERS + " is " + json.get(LAYERS)
                        + "; it must be a number or a list of numbers");
            }
        }
        List<String> before = json.path(LAYERS_PATTERN).isTextual()
                ? List.of(json.path(LAYERS_PATTERN).textValue())
                : names(file, json, LAYERS_PATTERN);
        return new TargetModules(pattern == null ? names : List.of(), pattern,
                regex ? List.of() : names(file, json, EXCLUDE), regex ? json.path(EXCLUDE).textValue() : null, layers,
                layers.isEmpty() ? List.of() : before);
    }

    private static LoraConfig.Patterns patterns(Path file, JsonNode json) throws IOException {
        Map<String, Integer> ranks = new LinkedHashMap<>();
        Map<String, Double> alphas = new LinkedHashMap<>();
        for (Map.Entry<String, JsonNode> e : json.path(RANKS).properties()) {
            if (!e.getValue().isIntegralNumber() || !e.getValue().canConvertToInt()) {
                throw new IOException(file + ": " + RANKS + " has " + e + "; a rank is a whole number");
            }
            ranks.put(e.getKey(), e.getValue().intValue());
        }
        for (Map.Entry<String, JsonNode> e : json.path(ALPHAS).properties()) {
            if (!e.getValue().isNumber()) {
                throw new IOException(file + ": " + ALPHAS + " has " + e + "; an alpha is a number");
            }
            alphas.put(e.getKey(), e.getValue().doubleValue());
        }
        return new LoraConfig.Patterns(ranks, alphas);
    }

    /** A list is the embedding's; a dictionary says whose. */
    private static TrainableTokens tokens(Path file, JsonNode json) throws IOException {
        JsonNode value = json.path(TOKENS);
        Map<String, List<Integer>> indices = new LinkedHashMap<>();
        if (value.isArray()) {
            indices.put(TrainableTokens.EMBEDDING, ids(file, value));
        } else if (value.isObject()) {
            for (Map.Entry<String, JsonNode> e : value.properties()) {
                indices.put(TrainableTokens.module(e.getKey()), ids(file, e.getValue()));
            }
        } else if (!value.isMissingNode() && !value.isNull()) {
            throw new IOException(
                    file + ": " + TOKENS + " is " + value + "; it must be a list of token ids, or lists by"
                            + " module");
        }
        return new TrainableTokens(indices);
    }

    private static List<Integer> ids(Path file, JsonNode list) throws IOException {
        List<Integer> ids = new ArrayList<>();
        for (JsonNode id : list) {
            if (!list.isArray() || !id.isIntegralNumber() || !id.canConvertToInt()) {
                throw new IOException(file + ": " + TOKENS + " has " + list + "; it must be a list of token ids");
            }
            ids.add(id.intValue());
        }
        return ids;
    }

    /** The strings of a list; none where the field is missing, null or a string. */
    private static List<String> names(Path file, JsonNode json, String field) throws IOException {
        JsonNode value = json.path(field);
        List<String> names = new ArrayList<>();
        for (JsonNode name : value) {
            if (!value.isArray() || !name.isTextual()) {
                throw new IOException(file + ": " + field + " is " + value + "; it must be a list of names");
            }
            names.add(name.textValue());
        }
        return names;
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
        put(json, ALPHA, config.alpha());
        json.put(DROPOUT, config.dropout());
        json.put(RSLORA, config.rsLora());
        json.put(DORA, config.dora());
        json.put(BIAS, config.bias().toString());
        TargetModules t = config.targets();
        if (t.pattern() != null) {
            json.put(TARGETS, t.pattern());
        } else {
            list(json, TARGETS, new TreeSet<>(t.allLinear() ? TargetModules.lastParts(modules) : t.names()));
        }
        if (t.excludePattern() != null) {
            json.put(EXCLUDE, t.excludePattern());
        } else if (!t.exclude().isEmpty()) {
            list(json, EXCLUDE, t.exclude());
        }
        if (!t.layers().isEmpty()) {
            ArrayNode layers = json.putArray(LAYERS);
            t.layers().forEach(layers::add);
        }
        if (!t.layersPattern().isEmpty()) {
            list(json, LAYERS_PATTERN, t.layersPattern());
        }
        config.patterns().rank().forEach(((ObjectNode) json.get(RANKS))::put);
        config.patterns().alpha().forEach((key, alpha) -> put((ObjectNode) json.get(ALPHAS), key, alpha));
        if (!config.modulesToSave().isEmpty()) {
            list(json, SAVED, config.modulesToSave());
        }
        Map<String, List<Integer>> tokens = config.tokens().byName();
        if (tokens.size() == 1 && !config.tokens().of(TrainableTokens.EMBEDDING).isEmpty()) {
            config.tokens().of(TrainableTokens.EMBEDDING).forEach(json.putArray(TOKENS)::add);
        } else if (!tokens.isEmpty()) {
            ObjectNode byName = json.putObject(TOKENS);
            tokens.forEach((name, ids) -> ids.forEach(byName.putArray(name)::add));
        }
        return JSON.writer(printer()).writeValueAsString(json).getBytes(StandardCharsets.UTF_8);
    }

    /** A whole number without a point, as Python writes an int. */
    private static void put(ObjectNode json, String field, double value) {
        if (value == (int) value) {
            json.put(field, (int) value);
        } else {
            json.put(field, value);
        }
    }

    private static void list(ObjectNode json, String field, Collection<String> names) {
        ArrayNode list = json.putArray(field);
        names.forEach(list::add);
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
