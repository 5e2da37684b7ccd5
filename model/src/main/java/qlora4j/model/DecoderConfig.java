package qlora4j.model;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import qlora4j.tensor.DType;

/**
 * The shape of a Llama-family decoder, as a {@code config.json} of Hugging Face transformers gives it.
 *
 * @param architecture the family
 * @param vocab rows of the embedding
 * @param hidden features of a token between the layers
 * @param intermediate features inside the MLP
 * @param layers decoder layers
 * @param heads query heads
 * @param kvHeads key and value heads, each serving {@code heads / kvHeads} query heads
 * @param headDim features of a head; even
 * @param rmsNormEps added to the mean square in RMSNorm
 * @param maxPositions the longest sequence the model was made for, in tokens
 * @param tieWordEmbeddings whether the head is the embedding
 * @param slidingWindow how many positions a query sees, its own included; 0 for all
 * @param rope the rotary position embeddings
 * @param attentionBias whether q, k, v and o have biases
 * @param mlpBias whether gate, up and down have biases
 * @param dtype the dtype the weights are meant to have, or null where the file names none
 * @param hiddenAct the MLP's activation
 * @param bosId the token that begins a text
 * @param eosIds the tokens that end one; see {@link GenerationConfig} for those that count
 * @param padId the token that fills a batch
 * @param quantization how the checkpoint's linear layers are quantized, or null for a dense one
 */
public record DecoderConfig(Architecture architecture, int vocab, int hidden, int intermediate, int layers, int heads,
        int kvHeads, int headDim, double rmsNormEps, int maxPositions, boolean tieWordEmbeddings, int slidingWindow,
        RopeConfig rope, boolean attentionBias, boolean mlpBias, DType dtype, String hiddenAct, OptionalInt bosId,
        List<Integer> eosIds, OptionalInt padId, Quantization4bit quantization) {
    /** The name of the file in a model directory. */
    public static final String FILE = "config.json";
    /** The only activation. */
    public static final String SILU = "silu";

    /** The families, with what transformers assumes where a {@code config.json} leaves a field out. */
    public enum Architecture {
        LLAMA("llama", "LlamaForCausalLM", 2048, 0, 0), MISTRAL("mistral", "MistralForCausalLM", 131072, 8, 4096);

        private final String modelType;
        private final String className;
        private final int defaultMaxPositions;
        /** 0 for as many as query heads. */
        private final int defaultKvHeads;
        private final int defaultSlidingWindow;

        Architecture(String modelType, String className, int defaultMaxPositions, int defaultKvHeads,
                int defaultSlidingWindow) {
            this.modelType = modelType;
            this.className = className;
            this.defaultMaxPositions = defaultMaxPositions;
            this.defaultKvHeads = defaultKvHeads;
            this.defaultSlidingWindow = defaultSlidingWindow;
        }

        /** The {@code model_type} of {@code config.json}. */
        public String modelType() {
            return modelType;
        }
    }

    public DecoderConfig {
        eosIds = List.copyOf(eosIds);
        positive("vocab_size", vocab);
        positive("hidden_size", hidden);
        positive("intermediate_size", intermediate);
        positive("num_hidden_layers", layers);
        positive("num_attention_heads", heads);
        positive("num_key_value_heads", kvHeads);
        positive("head_dim", headDim);
        positive("max_position_embeddings", maxPositions);
        if (heads % kvHeads != 0) {
            throw new IllegalArgumentException("num_attention_heads " + heads
                    + " is no multiple of num_key_value_heads " + kvHeads);
        }
        if (headDim % 2 != 0) {
            throw new IllegalArgumentException("head_dim " + headDim + " is odd; rotary embeddings turn pairs");
        }
        if (!(rmsNormEps > 0) || Double.isInfinite(rmsNormEps)) {
            throw new IllegalArgumentException("rms_norm_eps " + rmsNormEps + ": a positive number is expected");
        }
        if (slidingWindow < 0) {
            throw new IllegalArgumentException("sliding_window " + slidingWindow + ": a positive number is expected");
        }
        if (!hiddenAct.equals(SILU)) {
            throw new IllegalArgumentException("hidden_act \"" + hiddenAct + "\" is not supported; " + SILU + " is");
        }
    }

    private static void positive(String field, int value) {
        if (value <= 0) {
            throw new IllegalArgumentException(field + " " + value + ": a positive number is expected");
        }
    }

    /**
     * Reads a {@code config.json}.
     *
     * @param file the file, or the directory that holds it
     * @throws ModelFormatException if it is malformed or asks for what is not supported, by name
     * @throws IOException if it cannot be read
     */
    public static DecoderConfig read(Path file) throws IOException {
        return of(JsonFile.read(Files.isDirectory(file) ? file.resolve(FILE) : file));
    }

    static DecoderConfig of(JsonFile json) throws ModelFormatException {
        Architecture architecture = architecture(json);
        int hidden = json.requiredInt("hidden_size");
        int heads = json.requiredInt("num_attention_heads");
        boolean llama = architecture == Architecture.LLAMA;
        try {
            positive("num_attention_heads", heads);
            if (!json.has("head_dim") && hidden % heads != 0) {
                throw json.error("hidden_size " + hidden + " is no multiple of num_attention_heads " + heads
                        + " and there is no head_dim");
            }
            String dtype = json.optionalString("dtype", json.optionalString("torch_dtype", "auto"));
            return new DecoderConfig(architecture, json.requiredInt("vocab_size"), hidden,
                    json.requiredInt("intermediate_size"), json.requiredInt("num_hidden_layers"), heads,
                    json.optionalInt("num_key_value_heads", defaultKvHeads(json, architecture, heads)),
                    json.optionalInt("head_dim", hidden / heads), json.optionalDouble("rms_norm_eps", 1e-6),
                    json.optionalInt("max_position_embeddings", architecture.defaultMaxPositions),
                    json.optionalBoolean("tie_word_embeddings", false), slidingWindow(json, architecture),
                    RopeConfig.read(json), llama && json.optionalBoolean("attention_bias", false),
                    llama && json.optionalBoolean("mlp_bias", false),
                    dtype.equals("auto") ? null : DtypeNames.parse(dtype), json.optionalString("hidden_act", SILU),
                    json.tokenId("bos_token_id"), json.tokenIds("eos_token_id"), json.tokenId("pad_token_id"),
                    Quantization4bit.read(json));
        } catch (IllegalArgumentException e) {
            throw new ModelFormatException(json.file(), e.getMessage(), e);
        }
    }

    private static Architecture architecture(JsonFile json) throws ModelFormatException {
        String type = json.optionalString("model_type", "");
        for (Architecture a : Architecture.values()) {
            if (a.modelType.equals(type)) {
                return a;
            }
        }
        throw json.error((type.isEmpty() ? "\"model_type\" is missing" : "model_type \"" + type + "\" is not supported")
                + "; supported are llama and mistral");
    }

    /** As transformers: null means as many as query heads, a field left out the family's default. */
    private static int defaultKvHeads(JsonFile json, Architecture architecture, int heads) {
        boolean isNull = json.fields().has("num_key_value_heads");
        return isNull || architecture.defaultKvHeads == 0 ? heads : architecture.defaultKvHeads;
    }

    /** As transformers: null means none, a field left out the family's default (mistral: 4096). */
    private static int slidingWindow(JsonFile json, Architecture architecture) throws ModelFormatException {
        if (architecture.defaultSlidingWindow == 0) {
            return 0;
        }
        boolean isNull = json.fields().has("sliding_window");
        return json.optionalInt("sliding_window", isNull ? 0 : architecture.defaultSlidingWindow);
    }

    /** The rotary frequencies of a head, {@code [headDim / 2]}, as {@link RopeConfig#inverseFrequencies}. */
    public double[] inverseFrequencies() {
        return rope.inverseFrequencies(headDim);
    }

    /** The same model with its checkpoint quantized so; null for a dense one. */
    public DecoderConfig withQuantization(Quantization4bit quantization) {
        return new DecoderConfig(architecture, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, rmsNormEps,
                maxPositions, tieWordEmbeddings, slidingWindow, rope, attentionBias, mlpBias, dtype, hiddenAct, bosId,
                eosIds, padId, quantization);
    }

    /** The same model with weights of another dtype. */
    public DecoderConfig withDtype(DType dtype) {
        return new DecoderConfig(architecture, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, rmsNormEps,
                maxPositions, tieWordEmbeddings, slidingWindow, rope, attentionBias, mlpBias, dtype, hiddenAct, bosId,
                eosIds, padId, quantization);
    }

    /**
     * This configuration as a {@code config.json}.
     *
     * @param source an object whose other fields are kept, and whose spelling of rope and dtype; it may be empty
     * @return a new object; {@code source} stays as it is
     */
    public ObjectNode toJson(ObjectNode source) {
        ObjectNode json = source.deepCopy();
        if (!json.has("architectures")) {
            json.putArray("architectures").add(architecture.className);
        }
        json.put("model_type", architecture.modelType).put("vocab_size", vocab).put("hidden_size", hidden);
        json.put("intermediate_size", intermediate).put("num_hidden_layers", layers).put("num_attention_heads", heads);
        json.put("num_key_value_heads", kvHeads).put("head_dim", headDim).put("rms_norm_eps", rmsNormEps);
        json.put("max_position_embeddings", maxPositions).put("tie_word_embeddings", tieWordEmbeddings);
        json.put("hidden_act", hiddenAct);
        if (architecture == Architecture.LLAMA) {
            json.put("attention_bias", attentionBias).put("mlp_bias", mlpBias);
        }
        if (architecture.defaultSlidingWindow != 0) {
            if (slidingWindow == 0) {
                json.putNull("sliding_window");
            } else {
                json.put("sliding_window", slidingWindow);
            }
        }
        rope.write(json);
        if (dtype != null) {
            json.put(json.has("torch_dtype") && !json.has("dtype") ? "torch_dtype" : "dtype", DtypeNames.name(dtype));
        }
        putId(json, "bos_token_id", bosId);
        putId(json, "pad_token_id", padId);
        if (eosIds.size() == 1 && !json.path("eos_token_id").isArray()) {
            json.put("eos_token_id", eosIds.getFirst());
        } else if (eosIds.isEmpty()) {
            json.putNull("eos_token_id");
        } else {
            ArrayNode list = json.putArray("eos_token_id");
            eosIds.forEach(list::add);
        }
        if (quantization == null) {
            json.remove(Quantization4bit.FIELD);
        } else {
            quantization.write(json);
        }
        return json;
    }

    private static void putId(ObjectNode json, String field, OptionalInt id) {
        if (id.isPresent()) {
            json.put(field, id.getAsInt());
        } else {
            json.putNull(field);
        }
    }
}
