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
 * @param windowFrom the first layer that has the window; the layers before it see all positions
 * @param rope the rotary position embeddings
 * @param qkvBias whether q, k and v have biases
 * @param outputBias whether o has a bias
 * @param mlpBias whether gate, up and down have biases
 * @param qkNorm whether each head of q and k goes through an RMSNorm of its own before it is rotated
 * @param dtype the dtype the weights are meant to have, or null where the file names none
 * @param hiddenAct the MLP's activation
 * @param bosId the token that begins a text
 * @param eosIds the tokens that end one; see {@link GenerationConfig} for those that count
 * @param padId the token that fills a batch
 * @param quantization how the checkpoint's linear layers are quantized, or null for a dense one
 */
public record DecoderConfig(Architecture architecture, int vocab, int hidden, int intermediate, int layers, int heads,
        int kvHeads, int headDim, double rmsNormEps, int maxPositions, boolean tieWordEmbeddings, int slidingWindow,
        int windowFrom, RopeConfig rope, boolean qkvBias, boolean outputBias, boolean mlpBias, boolean qkNorm,
        DType dtype, String hiddenAct, OptionalInt bosId, List<Integer> eosIds, OptionalInt padId,
        Quantization4bit quantization) {
    /** The name of the file in a model directory. */
    public static final String FILE = "config.json";
    /** transformers' sliding_window and max_window_layers where a file leaves them out. */
    private static final int DEFAULT_WINDOW = 4096;
    private static final int DEFAULT_MAX_WINDOW_LAYERS = 28;
    /** Far above any model's; what a configuration asks for is listed layer by layer before it is looked for. */
    private static final int MAX_LAYERS = 4096;
    /** The only activation. */
    public static final String SILU = "silu";

    /** Which linear layers of attention have biases. */
    enum Biases {
        NONE,
        /** q, k, v and o where {@code attention_bias} says so, gate, up and down where {@code mlp_bias} does. */
        AS_CONFIGURED,
        /** q, k, v and o where {@code attention_bias} says so. */
        ATTENTION_AS_CONFIGURED,
        /** q, k and v always. */
        QKV
    }

    /** Which layers see a window of positions only. */
    enum Window {
        NONE,
        /** All, where {@code sliding_window} is a number. */
        ALL_LAYERS,
        /** Where {@code use_sliding_window} is set, those from {@code max_window_layers} on. */
        UPPER_LAYERS
    }

    /** The families: how they differ, and what transformers assumes where a {@code config.json} leaves a field out. */
    public enum Architecture {
        LLAMA("llama", "LlamaForCausalLM", Biases.AS_CONFIGURED, Window.NONE, false, 2048, 0, 0),
        MISTRAL("mistral", "MistralForCausalLM", Biases.NONE, Window.ALL_LAYERS, false, 131072, 8, 0),
        QWEN2("qwen2", "Qwen2ForCausalLM", Biases.QKV, Window.UPPER_LAYERS, false, 32768, 32, 0),
        QWEN3("qwen3", "Qwen3ForCausalLM", Biases.ATTENTION_AS_CONFIGURED, Window.UPPER_LAYERS, true, 32768, 32, 128);

        private final String modelType;
        private final String className;
        private final Biases biases;
        private final Window window;
        private final boolean qkNorm;
        private final int defaultMaxPositions;
        /** 0 for as many as query heads. */
        private final int defaultKvHeads;
        /** 0 for the hidden features divided among the heads. */
        private final int defaultHeadDim;

        Architecture(String modelType, String className, Biases biases, Window window, boolean qkNorm,
                int defaultMaxPositions, int defaultKvHeads, int defaultHeadDim) {
            this.modelType = modelType;
            this.className = className;
            this.biases = biases;
            this.window = window;
            this.qkNorm = qkNorm;
            this.defaultMaxPositions = defaultMaxPositions;
            this.defaultKvHeads = defaultKvHeads;
            this.defaultHeadDim = defaultHeadDim;
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
        if (layers > MAX_LAYERS) {
            throw new IllegalArgumentException("num_hidden_layers " + layers + ": at most " + MAX_LAYERS
                    + " are supported");
        }
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
        if (windowFrom < 0) {
            throw new IllegalArgumentException("max_window_layers " + windowFrom + ": 0 or more is expected");
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

    /**
     * The same from fields in memory.
     *
     * @param where what errors name as their file
     */
    public static DecoderConfig of(Path where, ObjectNode json) throws ModelFormatException {
        return of(new JsonFile(where, json));
    }

    static DecoderConfig of(JsonFile json) throws ModelFormatException {
        Architecture a = architecture(json);
        int hidden = json.requiredInt("hidden_size");
        int heads = json.requiredInt("num_attention_heads");
        int layers = json.requiredInt("num_hidden_layers");
        try {
            positive("num_attention_heads", heads);
            if (!json.has("head_dim") && a.defaultHeadDim == 0 && hidden % heads != 0) {
                throw json.error("hidden_size " + hidden + " is no multiple of num_attention_heads " + heads
                        + " and there is no head_dim");
            }
            String dtype = json.optionalString("dtype", json.optionalString("torch_dtype", "auto"));
            boolean attentionBias = (a.biases == Biases.AS_CONFIGURED || a.biases == Biases.ATTENTION_AS_CONFIGURED)
                    && json.optionalBoolean("attention_bias", false);
            DecoderConfig config = new DecoderConfig(a, json.requiredInt("vocab_size"), hidden,
                    json.requiredInt("intermediate_size"), layers, heads,
                    json.optionalInt("num_key_value_heads", defaultKvHeads(json, a, heads)),
                    json.optionalInt("head_dim", defaultHeadDim(a, hidden, heads)),
                    json.optionalDouble("rms_norm_eps", 1e-6),
                    json.optionalInt("max_position_embeddings", a.defaultMaxPositions),
                    json.optionalBoolean("tie_word_embeddings", false), slidingWindow(json, a), windowFrom(json, a),
                    RopeConfig.read(json), a.biases == Biases.QKV || attentionBias, attentionBias,
                    a.biases == Biases.AS_CONFIGURED && json.optionalBoolean("mlp_bias", false), a.qkNorm,
                    dtype.equals("auto") ? null : DtypeNames.parse(dtype), json.optionalString("hidden_act", SILU),
                    json.tokenId("bos_token_id"), json.tokenIds("eos_token_id"), json.tokenId("pad_token_id"),
                    Quantization4bit.read(json));
            config.checkLayerTypes(json);
            return config;
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
        throw json.error(UnknownArchitecture.describe(type, json.fields()));
    }

    /** As transformers: null means as many as query heads, a field left out the family's default. */
    private static int defaultKvHeads(JsonFile json, Architecture architecture, int heads) {
        boolean isNull = json.fields().has("num_key_value_heads");
        return isNull || architecture.defaultKvHeads == 0 ? heads : architecture.defaultKvHeads;
    }

    private static int defaultHeadDim(Architecture architecture, int hidden, int heads) {
        return architecture.defaultHeadDim == 0 ? hidden / heads : architecture.defaultHeadDim;
    }

    /** As transformers: null means none, a field left out the family's default, 4096. */
    private static int slidingWindow(JsonFile json, Architecture architecture) throws ModelFormatException {
        boolean used = switch (architecture.window) {
            case NONE -> false;
            case ALL_LAYERS -> true;
            case UPPER_LAYERS -> json.optionalBoolean("use_sliding_window", false);
        };
        boolean isNull = json.fields().has("sliding_window");
        return used ? json.optionalInt("sliding_window", isNull ? 0 : DEFAULT_WINDOW) : 0;
    }

    private static int windowFrom(JsonFile json, Architecture architecture) throws ModelFormatException {
        return architecture.window == Window.UPPER_LAYERS && slidingWindow(json, architecture) > 0
                ? json.optionalInt("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS)
                : 0;
    }

    /** A list of the layers' kinds of attention must say what the other fields say. */
    private void checkLayerTypes(JsonFile json) throws ModelFormatException {
        List<String> types = json.strings("layer_types");
        for (int i = 0; i < types.size(); i++) {
            String expected = slidingWindow(i) > 0 ? "sliding_attention" : "full_attention";
            if (architecture.window == Window.UPPER_LAYERS && (types.size() != layers
                    || !types.get(i).equals(expected))) {
                throw json.error("\"layer_types\" says " + types.get(i) + " for layer " + i + " of " + types.size()
                        + "; num_hidden_layers, use_sliding_window and max_window_layers say " + expected
                        + " for layer " + i + " of " + layers + ", and other arrangements are not supported");
            }
        }
    }

    /** The window of a layer: how many positions a query sees there, its own included; 0 for all. */
    public int slidingWindow(int layer) {
        return layer < windowFrom ? 0 : slidingWindow;
    }

    /** The rotary frequencies of a head, {@code [headDim / 2]}, as {@link RopeConfig#inverseFrequencies}. */
    public double[] inverseFrequencies() {
        return rope.inverseFrequencies(headDim);
    }

    /** The same model with its checkpoint quantized so; null for a dense one. */
    public DecoderConfig withQuantization(Quantization4bit quantization) {
        return new DecoderConfig(architecture, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, rmsNormEps,
                maxPositions, tieWordEmbeddings, slidingWindow, windowFrom, rope, qkvBias, outputBias, mlpBias, qkNorm,
                dtype, hiddenAct, bosId, eosIds, padId, quantization);
    }

    /** The same model with weights of another dtype. */
    public DecoderConfig withDtype(DType dtype) {
        return new DecoderConfig(architecture, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, rmsNormEps,
                maxPositions, tieWordEmbeddings, slidingWindow, windowFrom, rope, qkvBias, outputBias, mlpBias, qkNorm,
                dtype, hiddenAct, bosId, eosIds, padId, quantization);
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
        json.put("num_key_value_heads", kvHeads).put("rms_norm_eps", rmsNormEps);
        boolean quotient = architecture.defaultHeadDim == 0 && headDim * heads == hidden;
        if (json.has("head_dim") || !quotient && headDim != architecture.defaultHeadDim) {
            json.put("head_dim", headDim);
        }
        json.put("max_position_embeddings", maxPositions).put("tie_word_embeddings", tieWordEmbeddings);
        json.put("hidden_act", hiddenAct);
        if (architecture.biases == Biases.AS_CONFIGURED || architecture.biases == Biases.ATTENTION_AS_CONFIGURED) {
            json.put("attention_bias", outputBias);
        }
        if (architecture.biases == Biases.AS_CONFIGURED) {
            json.put("mlp_bias", mlpBias);
        }
        if (architecture.window == Window.UPPER_LAYERS) {
            json.put("use_sliding_window", slidingWindow > 0);
        }
        if (slidingWindow > 0) {
            json.put("sliding_window", slidingWindow);
            if (architecture.window == Window.UPPER_LAYERS) {
                json.put("max_window_layers", windowFrom);
            }
        } else if (architecture.window == Window.ALL_LAYERS) {
            json.putNull("sliding_window");
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
