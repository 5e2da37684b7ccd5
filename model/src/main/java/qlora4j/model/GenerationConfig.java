package qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;

/**
 * How a model's makers want it to generate. Each setting comes from {@code generation_config.json}, or where there is
 * no such file from {@code config.json}, or is transformers' default. The EOS ids alone fall back one by one: a
 * {@code generation_config.json} without {@code eos_token_id} leaves it to {@code config.json}.
 *
 * @param eosIds the tokens that end a text, the first one first; may be empty
 * @param bosId the token that begins one
 * @param padId the token that fills a batch
 * @param doSample whether tokens are drawn
 * @param temperature divides the logits
 * @param topK how many of the most likely tokens stay; 0 for all
 * @param topP the probability that the tokens that stay reach; 1 for all
 * @param repetitionPenalty see {@link SamplingConfig}; 1 for none
 * @param maxNewTokens the most tokens to generate
 * @param ignored settings in the file that change what is generated and that are not supported, as {@code name=value}
 */
public record GenerationConfig(List<Integer> eosIds, OptionalInt bosId, OptionalInt padId, boolean doSample,
        double temperature, int topK, double topP, double repetitionPenalty, OptionalInt maxNewTokens,
        List<String> ignored) {
    /** The name of the file in a model directory. */
    public static final String FILE = "generation_config.json";
    private static final int DEFAULT_TOP_K = 50;

    /** Settings that are not supported, with the value at which each does nothing. */
    private static final Map<String, Double> NEUTRAL = Map.of("num_beams", 1.0, "min_p", 0.0, "typical_p", 1.0,
            "epsilon_cutoff", 0.0, "eta_cutoff", 0.0, "no_repeat_ngram_size", 0.0, "min_length", 0.0,
            "min_new_tokens", 0.0, "top_h", 1.0);

    public GenerationConfig {
        eosIds = List.copyOf(eosIds);
        ignored = List.copyOf(ignored);
    }

    /**
     * Reads the settings of a model directory.
     *
     * @throws ModelFormatException if a field has a value of another type
     * @throws IOException if a file cannot be read
     */
    public static GenerationConfig read(Path directory) throws IOException {
        JsonFile config = JsonFile.read(directory.resolve(DecoderConfig.FILE));
        Path file = directory.resolve(FILE);
        return of(Files.exists(file) ? JsonFile.read(file) : config, config);
    }

    private static GenerationConfig of(JsonFile json, JsonFile config) throws ModelFormatException {
        List<Integer> eos = json.tokenIds("eos_token_id");
        int maxNewTokens = json.optionalInt("max_new_tokens", 0);
        if (maxNewTokens < 0) {
            throw json.error("\"max_new_tokens\" is " + maxNewTokens + "; a positive number is expected");
        }
        GenerationConfig read = new GenerationConfig(eos.isEmpty() ? config.tokenIds("eos_token_id") : eos,
                json.tokenId("bos_token_id"), json.tokenId("pad_token_id"), json.optionalBoolean("do_sample", false),
                json.optionalDouble("temperature", 1), topK(json), json.optionalDouble("top_p", 1),
                json.optionalDouble("repetition_penalty", 1),
                maxNewTokens == 0 ? OptionalInt.empty() : OptionalInt.of(maxNewTokens), ignored(json));
        try {
            read.sampling(0);
        } catch (IllegalArgumentException e) {
            throw new ModelFormatException(json.file(), e.getMessage(), e);
        }
        return read;
    }

    /** Null asks for no limit, a field left out for the default. */
    private static int topK(JsonFile json) throws ModelFormatException {
        return json.optionalInt("top_k", json.fields().has("top_k") ? 0 : DEFAULT_TOP_K);
    }

    private static List<String> ignored(JsonFile json) {
        List<String> names = new ArrayList<>();
        NEUTRAL.forEach((name, neutral) -> {
            JsonNode value = json.get(name);
            if (value != null && !(value.isNumber() && value.doubleValue() == neutral)) {
                names.add(name + "=" + value);
            }
        });
        names.sort(null);
        return names;
    }

    /** These settings as a way to choose tokens. */
    public SamplingConfig sampling(long seed) {
        return doSample ? SamplingConfig.of(temperature, topK, topP, repetitionPenalty, seed)
                : new SamplingConfig(false, 1, 0, 1, repetitionPenalty, seed);
    }

    /** Whether {@code id} ends a text. */
    public boolean isEos(int id) {
        return eosIds.contains(id);
    }

    /**
     * The EOS that training appends to a completion: the tokenizer's where it is among {@link #eosIds()}, else the
     * first of these.
     *
     * @param tokenizerEos the id of {@code tokenizer_config.json}'s {@code eos_token}
     * @throws IllegalStateException if there is no EOS at all
     */
    public int trainingEos(OptionalInt tokenizerEos) {
        if (eosIds.isEmpty()) {
            throw new IllegalStateException("neither " + FILE + " nor " + DecoderConfig.FILE + " names an eos_token_id;"
                    + " a completion needs one to end with");
        }
        return tokenizerEos.isPresent() && isEos(tokenizerEos.getAsInt()) ? tokenizerEos.getAsInt() : eosIds.getFirst();
    }
}
