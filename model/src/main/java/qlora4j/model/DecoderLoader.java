package qlora4j.model;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.TrainableTokens;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.PlanBackend;

/**
 * How a decoder is loaded.
 *
 * @param quantize how dense linear weights are held; null: dense, in the compute type. A 4-bit checkpoint's layers stay
 *         as they are, its dense ones too
 * @param type the compute type: float32 or bfloat16 (float64 on the scalar backend)
 * @param tableRows the least number of tokens that the embedding and the head have room for, in the compute type: what an
 *         adapter with tokens of its own needs. 0: as the checkpoint has them; they move when such an adapter comes
 */
public record DecoderLoader(QuantConfig quantize, DType type, int tableRows) {
    /** NF4 with blocks of 64 and double quantization, computed in float32. */
    public static final DecoderLoader QLORA = new DecoderLoader(QuantConfig.QLORA, DType.F32);
    /** Nothing quantized, computed in float32. */
    public static final DecoderLoader DENSE = new DecoderLoader(null, DType.F32);

    public DecoderLoader {
        if (type != DType.F32 && type != DType.BF16 && type != DType.F64) {
            throw new IllegalArgumentException("--compute-dtype " + type + ": expected float32 or bfloat16");
        }
    }

    /** Without room for tokens of adapters. */
    public DecoderLoader(QuantConfig quantize, DType type) {
        this(quantize, type, 0);
    }

    /** The same with room for the tokens of an adapter, which so costs no second table for a while. */
    public DecoderLoader withRoomFor(TrainableTokens tokens) {
        int rows = tokens.indices().values().stream().flatMap(List::stream).mapToInt(id -> id + 1).max().orElse(0);
        return new DecoderLoader(quantize, type, rows);
    }

    /** Reads all weights of {@code config} from {@code view} to {@code backend}, one at a time. */
    public Decoder load(DecoderConfig config, SafetensorsView view, Backend backend) throws IOException {
        if (type == DType.F64 && !backend.name().equals(Backend.SCALAR)) {
            throw new IllegalArgumentException("--compute-dtype float64 runs on --backend scalar only");
        }
        try {
            return new Decoder(config, backend, type,
                    new CheckpointWeights(view, backend, type, rest(config), tableRows));
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }

    /** What a 4-bit checkpoint holds densely was left out on purpose (llm_int8_skip_modules). */
    private QuantConfig rest(DecoderConfig config) {
        return config.quantization() == null ? quantize : null;
    }

    /**
     * The decoder that {@link #load} would give, as shapes alone. Of a 4-bit checkpoint each layer's own quant_state says
     * how it is held; nothing else of the weights is read.
     *
     * @param view the checkpoint, or null where only the configuration is there: then it says what is in 4 bits, in
     *         blocks of 64
     */
    public Decoder shapes(DecoderConfig config, SafetensorsView view, PlanBackend backend) throws IOException {
        try {
            return new Decoder(config, backend, type, new ShapeWeights(backend, type,
                    name -> view == null ? described(config, name) : held(config, view, name),
                    name -> view == null ? config.dtype()
                            : Bnb4bit.contains(view, name) ? null : view.info(name).dtype(),
                    tableRows));
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }

    private QuantConfig held(DecoderConfig config, SafetensorsView view, String name) {
        try {
            return Bnb4bit.contains(view, name) ? Bnb4bit.config(view, name) : rest(config);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private QuantConfig described(DecoderConfig config, String name) {
        Quantization4bit q = config.quantization();
        if (q == null) {
            return quantize;
        }
        String module = name.substring(0, name.lastIndexOf('.'));
        boolean dense = q.skipModules().stream().anyMatch(m -> module.endsWith(m) || module.startsWith(m + "."));
        return dense ? null : new QuantConfig(q.quantType(), QuantConfig.QLORA.blocksize(), q.doubleQuant());
    }
}
