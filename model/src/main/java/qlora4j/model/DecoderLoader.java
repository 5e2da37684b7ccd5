package qlora4j.model;

import java.io.IOException;
import java.io.UncheckedIOException;
import qlora4j.blockwise.QuantConfig;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;

/**
 * How a decoder is loaded.
 *
 * @param quantize how dense linear weights are held; null: dense, in the compute type. A 4-bit checkpoint's layers stay
 *         as they are, its dense ones too
 * @param type the compute type: float32 or bfloat16 (float64 on the scalar backend)
 */
public record DecoderLoader(QuantConfig quantize, DType type) {
    /** NF4 with blocks of 64 and double quantization, computed in float32. */
    public static final DecoderLoader QLORA = new DecoderLoader(QuantConfig.QLORA, DType.F32);
    /** Nothing quantized, computed in float32. */
    public static final DecoderLoader DENSE = new DecoderLoader(null, DType.F32);

    public DecoderLoader {
        if (type != DType.F32 && type != DType.BF16 && type != DType.F64) {
            throw new IllegalArgumentException("--compute-dtype " + type + ": expected float32 or bfloat16");
        }
    }

    /** Reads all weights of {@code config} from {@code view} to {@code backend}, one at a time. */
    public Decoder load(DecoderConfig config, SafetensorsView view, Backend backend) throws IOException {
        if (type == DType.F64 && !backend.name().equals(Backend.SCALAR)) {
            throw new IllegalArgumentException("--compute-dtype float64 runs on --backend scalar only");
        }
        try {
            // What a 4-bit checkpoint holds densely was left out on purpose (llm_int8_skip_modules).
            QuantConfig rest = config.quantization() == null ? quantize : null;
            return new Decoder(config, backend, type, new CheckpointWeights(view, backend, type, rest));
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }
}
