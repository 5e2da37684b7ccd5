package qlora4j.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** Says of a {@code config.json} of a family that is not known how its decoder differs from the one that is built. */
final class UnknownArchitecture {
    /** Fields of transformers' configurations, and what they mean for the decoder where they are set. */
    private static final Map<String, String> DIFFERENCES = new LinkedHashMap<>();

    static {
        differs("a mixture of experts in place of one MLP", "num_experts", "num_local_experts", "n_routed_experts",
                "moe_intermediate_size");
        differs("latent attention, whose keys and values share a low-rank projection", "kv_lora_rank", "q_lora_rank");
        differs("layers that are no attention", "ssm_cfg", "state_size", "linear_num_value_heads", "mamba_d_state",
                "conv_L_cache");
        differs("logits or scores that go through tanh", "final_logit_softcapping", "attn_logit_softcapping");
        differs("scores that are scaled otherwise than by the root of head_dim", "query_pre_attn_scalar",
                "attention_multiplier");
        differs("embeddings, residuals or logits that are scaled", "embedding_multiplier", "residual_multiplier",
                "logits_scaling", "logit_scale", "scale_emb", "scale_depth");
        differs("activations that are clipped", "clip_qkv");
        differs("LayerNorm in place of RMSNorm", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps");
        differs("attention and MLP side by side", "parallel_attn", "use_parallel_residual");
        differs("positions by a linear bias", "alibi");
        differs("heads that are rotated in part", "partial_rotary_factor", "rotary_pct");
        differs("an encoder beside the decoder", "is_encoder_decoder");
        differs("images or sound beside text", "vision_config", "audio_config");
        differs("learned positions", "n_positions", "n_ctx");
    }

    private UnknownArchitecture() {
    }

    private static void differs(String how, String... fields) {
        for (String field : fields) {
            DIFFERENCES.put(field, how);
        }
    }

    /** The message: the family, those that are supported, and what of this configuration differs from them. */
    static String describe(String type, ObjectNode config) {
        String supported = Arrays.stream(DecoderConfig.Architecture.values()).map(a -> a.modelType())
                .collect(Collectors.joining(", "));
        String first = (type.isEmpty() ? "\"model_type\" is missing" : "model_type \"" + type + "\" is not supported")
                + "; supported are " + supported;
        List<String> found = new ArrayList<>();
        DIFFERENCES.forEach((field, how) -> {
            JsonNode value = config.get(field);
            if (value != null && isSet(value)) {
                found.add(how + " (" + shown(field, value) + ")");
            }
        });
        JsonNode activation = config.hasNonNull("hidden_activation")
                ? config.get("hidden_activation")
                : config.get("hidden_act");
        if (activation != null && activation.isTextual() && !activation.textValue().equals(DecoderConfig.SILU)) {
            found.add("the activation " + activation.textValue() + " in place of " + DecoderConfig.SILU);
        }
        if (!config.has("hidden_size")) {
            found.add("fields of other names: there is no hidden_size");
        }
        return first + (found.isEmpty()
                ? ". No field says how it differs; if it is one of these under another name, set \"model_type\" so,"
                        + " and the names and shapes of the weights are checked when they are read"
                : ". This one differs by " + String.join("; ", found));
    }

    private static boolean isSet(JsonNode value) {
        return !value.isNull() && !(value.isBoolean() && !value.booleanValue())
                && !(value.isNumber() && value.doubleValue() == 0);
    }

    private static String shown(String field, JsonNode value) {
        return value.isContainerNode() ? field : field + " " + value;
    }
}
