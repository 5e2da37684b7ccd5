package qlora4j.model;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.safetensors.TensorInfo;
import qlora4j.tensor.DType;

/** The tensors of a decoder's checkpoint: their names and shapes in Hugging Face's layout, and whether they are there. */
public final class ModelTensors {
    /** The embedding, {@code [vocab, hidden]}. */
    public static final String EMBEDDING = "model.embed_tokens.weight";
    /** The final norm's gains, {@code [hidden]}. */
    public static final String FINAL_NORM = "model.norm.weight";
    /** The head, {@code [vocab, hidden]}; absent where it is tied to the embedding. */
    public static final String HEAD = "lm_head.weight";
    private static final String WEIGHT = ".weight";
    private static final String BIAS = ".bias";
    /** Written by old versions of transformers, which compute it anew. */
    private static final String INVERSE_FREQUENCIES = ".rotary_emb.inv_freq";
    /** What a 4-bit checkpoint adds to the name of a packed weight. */
    private static final String ABSMAX = ".absmax";
    private static final List<String> COMPANIONS = List.of(ABSMAX, ".quant_map", ".nested_absmax", ".nested_quant_map");
    private static final String QUANT_STATE = ".quant_state.bitsandbytes__";

    private ModelTensors() {
    }

    /** The beginning of the names of a layer's tensors. */
    public static String layer(int index) {
        return "model.layers." + index + ".";
    }

    /**
     * The names of a dense checkpoint's tensors and their shapes, in the order of the forward pass. A linear layer's
     * weight is {@code [out, in]}.
     */
    public static Map<String, long[]> expected(DecoderConfig config) {
        Map<String, long[]> shapes = new LinkedHashMap<>();
        long hidden = config.hidden();
        long queries = (long) config.heads() * config.headDim();
        long keys = (long) config.kvHeads() * config.headDim();
        shapes.put(EMBEDDING, new long[]{config.vocab(), hidden});
        for (int i = 0; i < config.layers(); i++) {
            String layer = layer(i);
            shapes.put(layer + "input_layernorm.weight", new long[]{hidden});
            linear(shapes, layer + "self_attn.q_proj", queries, hidden, config.qkvBias());
            linear(shapes, layer + "self_attn.k_proj", keys, hidden, config.qkvBias());
            linear(shapes, layer + "self_attn.v_proj", keys, hidden, config.qkvBias());
            linear(shapes, layer + "self_attn.o_proj", hidden, queries, config.outputBias());
            if (config.qkNorm()) {
                shapes.put(layer + "self_attn.q_norm.weight", new long[]{config.headDim()});
                shapes.put(layer + "self_attn.k_norm.weight", new long[]{config.headDim()});
            }
            shapes.put(layer + "post_attention_layernorm.weight", new long[]{hidden});
            linear(shapes, layer + "mlp.gate_proj", config.intermediate(), hidden, config.mlpBias());
            linear(shapes, layer + "mlp.up_proj", config.intermediate(), hidden, config.mlpBias());
            linear(shapes, layer + "mlp.down_proj", hidden, config.intermediate(), config.mlpBias());
        }
        shapes.put(FINAL_NORM, new long[]{hidden});
        if (!config.tieWordEmbeddings()) {
            shapes.put(HEAD, new long[]{config.vocab(), hidden});
        }
        return shapes;
    }

    private static void linear(Map<String, long[]> shapes, String module, long out, long in, boolean bias) {
        shapes.put(module + WEIGHT, new long[]{out, in});
        if (bias) {
            shapes.put(module + BIAS, new long[]{out});
        }
    }

    /** Whether {@code weight} is packed 4-bit codes with its constants beside it, as bitsandbytes writes it. */
    public static boolean isPacked(SafetensorsView tensors, String weight) {
        return tensors.contains(weight + ABSMAX) && tensors.info(weight).dtype() == DType.U8;
    }

    /**
     * What is wrong with a checkpoint, tensor by tensor.
     *
     * @param missing names that the configuration asks for
     * @param unexpected names that it does not know
     * @param wrong tensors of another shape, or of a dtype that no weight has, with both named
     */
    public record Report(List<String> missing, List<String> unexpected, List<String> wrong) {
        private static final int SHOWN = 8;

        public Report {
            missing = List.copyOf(missing);
            unexpected = List.copyOf(unexpected);
            wrong = List.copyOf(wrong);
        }

        /** Whether nothing is wrong. */
        public boolean isClean() {
            return missing.isEmpty() && unexpected.isEmpty() && wrong.isEmpty();
        }

        /** Fails unless everything is as expected. */
        void require(Path directory) throws ModelFormatException {
            if (!isClean()) {
                throw new ModelFormatException(directory, "the tensors are not those that " + DecoderConfig.FILE
                        + " describes" + part("missing", missing) + part("unexpected", unexpected)
                        + part("wrong", wrong));
            }
        }

        private static String part(String title, List<String> names) {
            if (names.isEmpty()) {
                return "";
            }
            return "; " + title + ": " + String.join(", ", names.subList(0, Math.min(SHOWN, names.size())))
                    + (names.size() > SHOWN ? " and " + (names.size() - SHOWN) + " more" : "");
        }
    }

    /**
     * Compares a checkpoint with its configuration. A packed 4-bit weight has a shape of its own, which is not looked at
     * here, and its constants are expected beside it. A head that is stored although it is tied is left out of account,
     * as are the rotary frequencies of old checkpoints.
     */
    public static Report check(DecoderConfig config, SafetensorsView tensors) {
        Map<String, long[]> expected = expected(config);
        List<String> missing = new ArrayList<>();
        List<String> wrong = new ArrayList<>();
        expected.forEach((name, shape) -> {
            if (!tensors.contains(name)) {
                missing.add(name);
                return;
            }
            TensorInfo info = tensors.info(name);
            if (isPacked(tensors, name)) {
                if (shape.length != 2) {
                    wrong.add(name + " is packed in 4 bits, which only matrices are");
                }
            } else if (!Arrays.equals(info.shape(), shape)) {
                wrong.add(name + " is " + Arrays.toString(info.shape()) + " instead of " + Arrays.toString(shape));
            } else if (!isWeight(info.dtype())) {
                wrong.add(name + " is " + info.dtype() + " instead of F32, BF16, F16 or F64");
            }
        });
        List<String> unexpected = new ArrayList<>();
        for (String name : tensors.names()) {
            boolean known = expected.containsKey(name) || name.endsWith(INVERSE_FREQUENCIES)
                    || name.equals(HEAD) && config.tieWordEmbeddings() || isCompanion(expected, tensors, name);
            if (!known) {
                unexpected.add(name);
            }
        }
        return new Report(missing, unexpected, wrong);
    }

    private static boolean isWeight(DType dtype) {
        return dtype == DType.F32 || dtype == DType.BF16 || dtype == DType.F16 || dtype == DType.F64;
    }

    private static boolean isCompanion(Map<String, long[]> expected, SafetensorsView tensors, String name) {
        int end = name.indexOf(WEIGHT + ".");
        if (end < 0) {
            return false;
        }
        String weight = name.substring(0, end + WEIGHT.length());
        String ending = name.substring(weight.length());
        return expected.containsKey(weight) && tensors.contains(weight) && isPacked(tensors, weight)
                && (COMPANIONS.contains(ending) || ending.startsWith(QUANT_STATE));
    }
}
