package qlora4j.gguf;

import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.model.ModelTensors;

/** The names of a decoder's tensors in GGUF files (gguf-py's tensor_mapping.py) and in Hugging Face's layout. */
final class TensorNames {
    static final String EMBEDDING = "token_embd.weight";
    static final String HEAD = "output.weight";
    /** What llama-3's rope scaling divides each pair's frequency by. */
    static final String ROPE_FREQUENCIES = "rope_freqs.weight";
    static final String WEIGHT = ".weight";

    private static final Map<String, String> WHOLE = Map.of(ModelTensors.EMBEDDING, EMBEDDING, ModelTensors.FINAL_NORM,
            "output_norm.weight", ModelTensors.HEAD, HEAD);
    private static final Map<String, String> IN_LAYER = Map.ofEntries(Map.entry("input_layernorm", "attn_norm"),
            Map.entry("post_attention_layernorm", "ffn_norm"), Map.entry("self_attn.q_proj", "attn_q"),
            Map.entry("self_attn.k_proj", "attn_k"), Map.entry("self_attn.v_proj", "attn_v"),
            Map.entry("self_attn.o_proj", "attn_output"), Map.entry("self_attn.q_norm", "attn_q_norm"),
            Map.entry("self_attn.k_norm", "attn_k_norm"), Map.entry("mlp.gate_proj", "ffn_gate"),
            Map.entry("mlp.up_proj", "ffn_up"), Map.entry("mlp.down_proj", "ffn_down"));
    private static final Map<String, String> OUT_OF_LAYER = new TreeMap<>();
    private static final Pattern LAYER = Pattern.compile("model\\.layers\\.(\\d+)\\.(.+)\\.(weight|bias)");
    private static final Pattern BLOCK = Pattern.compile("blk\\.(\\d+)\\.([^.]+)\\.(weight|bias)");

    static {
        IN_LAYER.forEach((hf, gguf) -> OUT_OF_LAYER.put(gguf, hf));
    }

    private TensorNames() {
    }

    /** The GGUF name of a tensor of a Hugging Face checkpoint; null where there is none. */
    static String gguf(String name) {
        Matcher layer = LAYER.matcher(name);
        if (!layer.matches()) {
            return WHOLE.get(name);
        }
        String part = IN_LAYER.get(layer.group(2));
        return part == null ? null : "blk." + layer.group(1) + "." + part + "." + layer.group(3);
    }

    /** The Hugging Face name of a GGUF tensor; null where there is none. */
    static String huggingFace(String name) {
        Matcher block = BLOCK.matcher(name);
        if (!block.matches()) {
            return WHOLE.entrySet().stream().filter(e -> e.getValue().equals(name)).map(Map.Entry::getKey).findFirst()
                    .orElse(null);
        }
        String part = OUT_OF_LAYER.get(block.group(2));
        return part == null ? null : ModelTensors.layer(Integer.parseInt(block.group(1))) + part + "." + block.group(3);
    }
}
