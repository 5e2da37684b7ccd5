package qlora4j.model;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;
import qlora4j.blockwise.QuantType;
import qlora4j.tensor.DType;

/**
 * The {@code quantization_config} of a 4-bit checkpoint, as transformers writes it for bitsandbytes.
 *
 * @param quantType the 4-bit data type
 * @param doubleQuant whether the blocks' constants are quantized in turn
 * @param computeDtype the type that weights are dequantized to for products
 * @param skipModules modules that stay dense, by name; empty for the default (the head)
 */
public record Quantization4bit(QuantType quantType, boolean doubleQuant, DType computeDtype, List<String> skipModules) {
    static final String FIELD = "quantization_config";
    private static final String METHOD = "bitsandbytes";
    private static final String STORAGE = "uint8";
    private static final double OUTLIER_THRESHOLD = 6;

    public Quantization4bit {
        skipModules = List.copyOf(skipModules);
    }

    /** Reads {@code quantization_config}: null where the configuration has none. */
    static Quantization4bit read(JsonFile config) throws ModelFormatException {
        JsonFile quantization = config.optionalObject(FIELD);
        if (quantization == null) {
            return null;
        }
        String method = quantization.optionalString("quant_method", METHOD);
        boolean fourBit = quantization.optionalBoolean("load_in_4bit",
                quantization.optionalBoolean("_load_in_4bit", false));
        if (!method.equals(METHOD) || !fourBit) {
            throw config
                    .error("the checkpoint is quantized with \"" + method + "\"" + (fourBit ? "" : ", not in 4 bits")
                            + "; supported are dense checkpoints and 4-bit ones of bitsandbytes");
        }
        String storage = quantization.optionalString("bnb_4bit_quant_storage", STORAGE);
        if (!storage.equals(STORAGE)) {
            throw config.error("4-bit codes stored as " + storage + " are not supported; " + STORAGE + " is");
        }
        try {
            return new Quantization4bit(QuantType.named(quantization.optionalString("bnb_4bit_quant_type", "fp4")),
                    quantization.optionalBoolean("bnb_4bit_use_double_quant", false),
                    DtypeNames.parse(quantization.optionalString("bnb_4bit_compute_dtype", "float32")),
                    quantization.strings("llm_int8_skip_modules"));
        } catch (IllegalArgumentException e) {
            throw new ModelFormatException(config.file(), e.getMessage(), e);
        }
    }

    /** Writes every field that transformers writes; others that stand there stay. */
    void write(ObjectNode config) {
        ObjectNode q = config.get(FIELD) instanceof ObjectNode existing ? existing : config.putObject(FIELD);
        q.put("_load_in_4bit", true).put("_load_in_8bit", false);
        q.put("bnb_4bit_compute_dtype", DtypeNames.name(computeDtype)).put("bnb_4bit_quant_storage", STORAGE);
        q.put("bnb_4bit_quant_type", quantType.toString()).put("bnb_4bit_use_double_quant", doubleQuant);
        q.put("llm_int8_enable_fp32_cpu_offload", false).put("llm_int8_has_fp16_weight", false);
        if (skipModules.isEmpty()) {
            q.putNull("llm_int8_skip_modules");
        } else {
            ArrayNode skip = q.putArray("llm_int8_skip_modules");
            skipModules.forEach(skip::add);
        }
        q.put("llm_int8_threshold", OUTLIER_THRESHOLD);
        q.put("load_in_4bit", true).put("load_in_8bit", false).put("quant_method", METHOD);
    }
}
