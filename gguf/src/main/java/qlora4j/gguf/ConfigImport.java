package qlora4j.gguf;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalInt;
import qlora4j.gguf.GgufException.Kind;
import qlora4j.model.RopeConfig;
import qlora4j.tensor.DType;

/** The {@code config.json} and {@code generation_config.json} that a file's metadata and tensors describe. */
final class ConfigImport {
    static final String ARCHITECTURE = "general.architecture";
    static final String NAME = "general.name";
    private static final String LLAMA = "llama";
    private static final String MISTRAL = "mistral";
    private static final String QWEN3 = "qwen3";
    private static final Map<String, String> CLASSES = Map.of(LLAMA, "LlamaForCausalLM", MISTRAL, "MistralForCausalLM",
            "qwen2", "Qwen2ForCausalLM", QWEN3, "Qwen3ForCausalLM");
    private static final Map<DType, String> DTYPES = Map.of(DType.F32, "float32", DType.F16, "float16", DType.BF16,
            "bfloat16");

    private final Gguf gguf;
    private final GgufMetadata metadata;
    /** What the keys of the architecture begin with. */
    private final String prefix;
    private final String modelType;

    ConfigImport(Gguf gguf) throws GgufException {
        this.gguf = gguf;
        this.metadata = gguf.metadata();
        String architecture = metadata.text(ARCHITECTURE);
        this.prefix = architecture + ".";
        if (!CLASSES.containsKey(architecture)) {
            throw new GgufException(Kind.UNSUPPORTED, gguf.file(), "the architecture " + GgufException.quote(
                    architecture) + " is not supported; llama (which mistral is too), qwen2 and qwen3 are");
        }
        this.modelType = architecture.equals(LLAMA) && isMistral(metadata) ? MISTRAL : architecture;
        for (String key : List.of("expert_count", "attention.shared_kv_layers")) {
            if (metadata.integer(prefix + key, 0) != 0) {
                throw new GgufException(Kind.UNSUPPORTED, gguf.file(), prefix + key + " is "
                        + metadata.shown(prefix + key) + ": only dense decoders are supported");
            }
        }
    }

    /** To llama.cpp both are one architecture; only what a model is called tells them apart. */
    private static boolean isMistral(GgufMetadata metadata) throws GgufException {
        for (String key : List.of(NAME, "general.basename")) {
            if (metadata.text(key, "").toLowerCase(Locale.ROOT).contains(MISTRAL)) {
                return true;
            }
        }
        return false;
    }

    String modelType() {
        return modelType;
    }

    int maxPositions() throws GgufException {
        return metadata.integer(prefix + "context_length");
    }

    /** The tokens that end a text, the vocabulary's EOS first. */
    static List<Integer> ends(Vocabulary vocabulary) throws GgufException {
        List<Integer> ends = new ArrayList<>();
        vocabulary.eos().ifPresent(ends::add);
        for (String key : Vocabulary.MORE_ENDS) {
            OptionalInt id = vocabulary.id(key, -1);
            if (id.isPresent() && !ends.contains(id.getAsInt())) {
                ends.add(id.getAsInt());
            }
        }
        return ends;
    }

    /** The fields of {@code config.json}. */
    ObjectNode config(Vocabulary vocabulary, DType dtype) throws GgufException {
        ObjectNode json = JsonNodeFactory.instance.objectNode();
        json.putArray("architectures").add(CLASSES.get(modelType));
        json.put("model_type", modelType).put("dtype", DTYPES.get(dtype));
        GgufTensor embedding = tensor(TensorNames.EMBEDDING);
        long[] shape = embedding.shape();
        if (shape.length != 2 || shape[0] > Integer.MAX_VALUE) {
            throw new GgufException(Kind.BAD_TENSOR, gguf.file(), embedding + ": a matrix [vocabulary, hidden] is"
                    + " expected");
        }
        int heads = metadata.integer(prefix + "attention.head_count");
        int hidden = metadata.integer(prefix + "embedding_length");
        if (heads == 0) {
            throw metadata.wrong(prefix + "attention.head_count", "a positive number");
        }
        json.put("vocab_size", shape[0]).put("hidden_size", hidden);
        json.put("intermediate_size", metadata.integer(prefix + "feed_forward_length"));
        json.put("num_hidden_layers", metadata.integer(prefix + "block_count")).put("num_attention_heads", heads);
        json.put("num_key_value_heads", metadata.integer(prefix + "attention.head_count_kv", heads));
        int headDim = headDim(hidden, heads);
        json.put("head_dim", headDim).put("hidden_act", "silu").put("max_position_embeddings", maxPositions());
        json.put("rms_norm_eps", metadata.number(prefix + "attention.layer_norm_rms_epsilon"));
        json.put("tie_word_embeddings", !gguf.tensors().containsKey(TensorNames.HEAD));
        json.put("attention_dropout", 0.0).put("initializer_range", 0.02).put("use_cache", true);
        family(json);
        rope(json, headDim);
        ids(json, vocabulary);
        return json;
    }

    private void family(ObjectNode json) throws GgufException {
        String window = prefix + "attention.sliding_window";
        switch (modelType) {
            case LLAMA -> json.put("attention_bias", gguf.tensors().containsKey("blk.0.attn_q.bias"))
                    .put("mlp_bias", gguf.tensors().containsKey("blk.0.ffn_gate.bias"));
            case MISTRAL -> {
                if (metadata.integer(window, 0) == 0) {
                    json.putNull("sliding_window");
                } else {
                    json.put("sliding_window", metadata.integer(window));
                }
            }
            default -> {
                if (modelType.equals(QWEN3)) {
                    json.put("attention_bias", gguf.tensors().containsKey("blk.0.attn_q.bias"));
                }
                json.put("use_sliding_window", false).putNull("sliding_window");
            }
        }
    }

    private int headDim(int hidden, int heads) throws GgufException {
        int headDim = metadata.integer(prefix + "attention.key_length", hidden / heads);
        for (String key : List.of("attention.value_length", "rope.dimension_count")) {
            if (metadata.integer(prefix + key, headDim) != headDim) {
                throw metadata.wrong(prefix + key, "the size of a head, " + headDim + ", the only one supported,");
            }
        }
        return headDim;
    }

    /**
     * In the older spelling: transformers 4 and 5 read it, and others too, while the newer one, {@code rope_parameters},
     * is to transformers 4 an unknown field beside which it silently takes the usual base.
     */
    private void rope(ObjectNode json, int headDim) throws GgufException {
        double theta = metadata.number(prefix + "rope.freq_base", RopeConfig.DEFAULT_THETA);
        json.put("rope_theta", theta).putNull("rope_scaling");
        String scaling = metadata.text(prefix + "rope.scaling.type", "none");
        if (!scaling.equals("none") || metadata.number(prefix + "rope.scale_linear", 1) != 1) {
            throw new GgufException(Kind.UNSUPPORTED, gguf.file(), "rope scaling of type " + GgufException.quote(
                    scaling) + " is not supported; none and llama 3's are");
        }
        GgufTensor factors = gguf.tensors().get(TensorNames.ROPE_FREQUENCIES);
        if (factors == null) {
            return;
        }
        RopeConfig rope = factors.elements() != headDim / 2 || !factors.type().isReadable() ? null
                : RopeScaling.of(theta, TensorReader.values(gguf, factors));
        if (rope == null) {
            throw new GgufException(Kind.UNSUPPORTED, gguf.file(), "the factors in " + factors
                    + " are not those of llama 3's rope scaling");
        }
        if (rope.type() == RopeConfig.Type.LLAMA3) {
            json.putObject("rope_scaling").put("rope_type", rope.type().toString()).put("factor", rope.factor())
                    .put("low_freq_factor", rope.lowFreqFactor())
                    .put("high_freq_factor", rope.highFreqFactor())
                    .put("original_max_position_embeddings", rope.originalMaxPositions());
        }
    }

    private static void ids(ObjectNode json, Vocabulary vocabulary) throws GgufException {
        vocabulary.bos().ifPresentOrElse(id -> json.put("bos_token_id", id), () -> json.putNull("bos_token_id"));
        List<Integer> ends = ends(vocabulary);
        if (ends.size() == 1) {
            json.put("eos_token_id", ends.getFirst());
        } else {
            ends.forEach(json.putArray("eos_token_id")::add);
        }
        vocabulary.padding().ifPresent(id -> json.put("pad_token_id", id));
    }

    /** The fields of {@code generation_config.json}. */
    ObjectNode generation(Vocabulary vocabulary) throws GgufException {
        ObjectNode json = JsonNodeFactory.instance.objectNode();
        ids(json, vocabulary);
        String sampling = "general.sampling.";
        if (metadata.has(sampling + "temp")) {
            double temperature = metadata.number(sampling + "temp");
            json.put("do_sample", temperature > 0);
            if (temperature > 0) {
                json.put("temperature", temperature);
            }
        }
        if (metadata.has(sampling + "top_k")) {
            json.put("top_k", metadata.integer(sampling + "top_k"));
        }
        if (metadata.has(sampling + "top_p")) {
            json.put("top_p", metadata.number(sampling + "top_p"));
        }
        return json;
    }

    private GgufTensor tensor(String name) throws GgufException {
        GgufTensor tensor = gguf.tensors().get(name);
        if (tensor == null) {
            throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "there is no tensor " + name);
        }
        return tensor;
    }
}
