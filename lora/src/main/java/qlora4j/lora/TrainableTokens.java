package qlora4j.lora;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The rows of the embedding and of the head that an adapter replaces by rows of its own: PEFT's
 * {@code trainable_token_indices}. A head that is tied to the embedding has the embedding's.
 *
 * @param indices token ids by module, {@link #EMBEDDING} or {@link #HEAD}, in the order of the adapter's rows; each once
 */
public record TrainableTokens(Map<String, List<Integer>> indices) {
    /** The path of the embedding. */
    public static final String EMBEDDING = "model.embed_tokens";
    /** The path of the head. */
    public static final String HEAD = "lm_head";
    /** No rows. */
    public static final TrainableTokens NONE = new TrainableTokens(Map.of());

    /**
     * Checks every id.
     *
     * @throws IllegalArgumentException if a module is none of the two, or an id is negative or there twice
     */
    public TrainableTokens {
        Map<String, List<Integer>> copy = new LinkedHashMap<>();
        indices.forEach((module, ids) -> {
            if (!module.equals(EMBEDDING) && !module.equals(HEAD)) {
                throw new IllegalArgumentException("trainable_token_indices of module " + module
                        + ": embed_tokens and lm_head have tokens");
            }
            if (ids.stream().anyMatch(id -> id < 0) || new HashSet<>(ids).size() < ids.size()) {
                throw new IllegalArgumentException("trainable_token_indices " + ids
                        + ": token ids are expected, each once");
            }
            if (!ids.isEmpty()) {
                copy.put(module, List.copyOf(ids));
            }
        });
        indices = Collections.unmodifiableMap(copy);
    }

    /**
     * Rows of the embedding, and of a head that is not tied to it.
     *
     * @param ids in any order; each counts once
     */
    public static TrainableTokens of(List<Integer> ids, boolean tied) {
        List<Integer> sorted = ids.stream().distinct().sorted().toList();
        Map<String, List<Integer>> both = new LinkedHashMap<>();
        both.put(EMBEDDING, sorted);
        if (!tied) {
            both.put(HEAD, sorted);
        }
        return new TrainableTokens(both);
    }

    public boolean isEmpty() {
        return indices.isEmpty();
    }

    /** The token ids of a module, empty where it keeps all its rows. */
    public List<Integer> of(String module) {
        return indices.getOrDefault(module, List.of());
    }

    /** The modules' last names, as PEFT's dictionary has them, with their ids. */
    Map<String, List<Integer>> byName() {
        Map<String, List<Integer>> named = new LinkedHashMap<>();
        indices.forEach((module, ids) -> named.put(module.substring(module.lastIndexOf('.') + 1), ids));
        return named;
    }

    /** The module that a name of PEFT's dictionary means. */
    static String module(String name) {
        for (String module : List.of(EMBEDDING, HEAD)) {
            if (module.equals(name) || module.endsWith("." + name) || name.endsWith("." + module)) {
                return module;
            }
        }
        return name;
    }

    /** Ids as they are listed, in short. */
    @Override
    public String toString() {
        List<String> parts = new ArrayList<>();
        byName().forEach((name, ids) -> parts.add(name + "=" + ids));
        return String.join(", ", parts);
    }
}
