package qlora4j.model;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.safetensors.AtomicFile;

/**
 * A model's tokenizer with more special tokens, as transformers' {@code add_special_tokens} makes it: each new text gets
 * the next id, a text that is a token already keeps its own.
 *
 * @param files the tokenizer's files by name, to be saved beside an adapter
 * @param ids of the texts, in their order
 */
public record AddedTokens(Map<String, byte[]> files, List<Integer> ids) {
    private static final String ADDED = "added_tokens";
    /** transformers 5 and 4. */
    private static final List<String> LISTS = List.of("extra_special_tokens", "additional_special_tokens");
    private static final List<String> COPIED = List.of("special_tokens_map.json", "chat_template.jinja",
            "chat_template.json", "tokenizer.model");
    private static final JsonMapper JSON =
            JsonMapper.builder().enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS).build();

    /** Adds {@code texts} to the tokenizer of {@code directory}, whose files stay as they are. */
    static AddedTokens to(Path directory, List<String> texts) throws IOException {
        Path file = directory.resolve(Tokenizer.FILE);
        JsonNode read = JSON.readTree(file.toFile());
        if (!(read instanceof ObjectNode tokenizer)) {
            throw new ModelFormatException(file, "a JSON object is expected");
        }
        ArrayNode added = tokenizer.withArray(ADDED);
        Map<String, Integer> known = new LinkedHashMap<>();
        JsonNode vocab = tokenizer.path("model").path("vocab");
        int next = 0;
        if (vocab.isObject()) {
            vocab.properties().forEach(e -> known.put(e.getKey(), e.getValue().asInt()));
        } else {
            for (JsonNode entry : vocab) {
                known.put(entry.path(0).asText(), next++);
            }
        }
        added.forEach(t -> known.put(t.path("content").asText(), t.path("id").asInt()));
        next = known.values().stream().mapToInt(id -> id + 1).max().orElse(0);
        List<Integer> ids = new ArrayList<>();
        List<String> fresh = new ArrayList<>();
        for (String text : texts) {
            if (text.isBlank()) {
                throw new IllegalArgumentException("--add-special-tokens: a token is empty");
            }
            if (!known.containsKey(text)) {
                fresh.add(text);
                known.put(text, next++);
                added.addObject().put("id", known.get(text)).put("content", text).put("single_word", false)
                        .put("lstrip", false).put("rstrip", false).put("normalized", false).put("special", true);
            }
            ids.add(known.get(text));
        }
        Map<String, byte[]> files = new LinkedHashMap<>();
        files.put(Tokenizer.FILE, JSON.writerWithDefaultPrettyPrinter().writeValueAsBytes(tokenizer));
        for (String name : COPIED) {
            if (Files.exists(directory.resolve(name))) {
                files.put(name, Files.readAllBytes(directory.resolve(name)));
            }
        }
        if (Files.exists(directory.resolve(Tokenizer.CONFIG_FILE))
                && JSON.readTree(directory.resolve(Tokenizer.CONFIG_FILE).toFile()) instanceof ObjectNode config) {
            name(config, fresh, known);
            files.put(Tokenizer.CONFIG_FILE, JSON.writerWithDefaultPrettyPrinter().writeValueAsBytes(config));
        }
        return new AddedTokens(files, ids);
    }

    /** Names the new tokens in {@code tokenizer_config.json}, in the list and the table that it has. */
    private static void name(ObjectNode config, List<String> fresh, Map<String, Integer> ids) {
        String list = config.path(LISTS.get(1)).isArray() ? LISTS.get(1) : LISTS.get(0);
        if (!config.path(list).isObject()) {
            ArrayNode names = config.path(list).isArray() ? (ArrayNode) config.get(list) : config.putArray(list);
            fresh.forEach(names::add);
        }
        if (config.get("added_tokens_decoder") instanceof ObjectNode decoder) {
            fresh.forEach(text -> decoder.putObject(String.valueOf(ids.get(text))).put("content", text)
                    .put("lstrip", false).put("normalized", false).put("rstrip", false).put("single_word", false)
                    .put("special", true));
        }
    }

    /** Writes the tokenizer's files. */
    public void save(Path directory) throws IOException {
        Files.createDirectories(directory);
        for (Map.Entry<String, byte[]> file : files.entrySet()) {
            AtomicFile.write(directory.resolve(file.getKey()), file.getValue());
        }
    }

    /** The tokenizer of these files. */
    Tokenizer open() throws IOException {
        Path temporary = Files.createTempDirectory("qlora4j-tokenizer");
        try {
            save(temporary);
            return Tokenizer.open(temporary);
        } finally {
            for (String name : files.keySet()) {
                Files.deleteIfExists(temporary.resolve(name));
            }
            Files.deleteIfExists(temporary);
        }
    }
}
