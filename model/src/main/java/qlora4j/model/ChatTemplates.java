package qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import qlora4j.template.ChatTemplate;

/** A model's chat templates by name; parsed when first used. */
final class ChatTemplates {
    static final String FILE = "chat_template.jinja";
    static final String DEFAULT = "default";
    private static final String FIELD = "chat_template";

    private final Path directory;
    private final Map<String, String> sources;
    private final Map<String, ChatTemplate> parsed = new ConcurrentHashMap<>();

    private ChatTemplates(Path directory, Map<String, String> sources) {
        this.directory = directory;
        this.sources = sources;
    }

    /** The file {@code chat_template.jinja} counts before {@code tokenizer_config.json}, as in transformers. */
    static ChatTemplates read(Path directory, JsonFile tokenizerConfig) throws IOException {
        Map<String, String> sources = new LinkedHashMap<>();
        JsonNode field = tokenizerConfig.get(FIELD);
        if (field != null && field.isTextual()) {
            sources.put(DEFAULT, field.textValue());
        } else if (field != null) {
            for (JsonNode entry : field) {
                if (!entry.path("name").isTextual() || !entry.path("template").isTextual()) {
                    throw tokenizerConfig
                            .error("\"" + FIELD + "\" is neither a template nor a list of {name, template}");
                }
                sources.put(entry.get("name").textValue(), entry.get("template").textValue());
            }
        }
        Path file = directory.resolve(FILE);
        if (Files.exists(file)) {
            sources.put(DEFAULT, Files.readString(file));
        }
        return new ChatTemplates(directory, sources);
    }

    Set<String> names() {
        return Set.copyOf(sources.keySet());
    }

    Map<String, String> sources() {
        return Collections.unmodifiableMap(sources);
    }

    ChatTemplate get(String name) {
        String source = sources.get(name);
        if (source == null) {
            throw new IllegalStateException(directory + ": " + (sources.isEmpty()
                    ? "the model has no chat template: neither a file " + FILE + " nor " + FIELD
                            + " in tokenizer_config.json; choose another prompt template, or add one"
                    : "there is no chat template \"" + name + "\"; there are " + sources.keySet()));
        }
        return parsed.computeIfAbsent(name, _ -> ChatTemplate.parse(source));
    }
}
