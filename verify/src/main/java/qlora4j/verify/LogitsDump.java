package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Path;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.TokenBatch;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Our logits as a file that another implementation can compare its own with; the scripts of {@code verify/interop} do.
 * It holds {@code input_ids} [1, T] (int32) and {@code logits} [1, T, vocab] (float32), and says in its metadata how
 * dense linear weights were held. A tokenizer is not needed.
 */
public final class LogitsDump {
    /** The names of the two tensors. */
    public static final String IDS = "input_ids";
    public static final String LOGITS = "logits";
    /** The key of the metadata: {@link #DENSE}, or {@link #NF4} where dense weights were quantized on loading. */
    public static final String LOADED = "loaded";
    public static final String DENSE = "as_stored";
    public static final String NF4 = "nf4";

    private LogitsDump() {
    }

    /**
     * Computes in float32 and writes the file.
     *
     * @param model directory with {@code config.json} and weights, dense or 4-bit
     * @param adapter PEFT directory, or null for the base alone
     * @param quantize whether dense linear weights are quantized; those of a 4-bit directory stay as they are
     * @param ids one sequence
     * @throws IllegalArgumentException if there are no ids, too many, or one is outside the vocabulary
     * @throws IOException if a file is missing, malformed or cannot be written
     */
    public static void write(Backend backend, Path model, Path adapter, boolean quantize, int[] ids, Path out)
            throws IOException {
        DecoderConfig config = DecoderConfig.read(model);
        try (SafetensorsModel weights = SafetensorsModel.open(model); Stream stream = backend.openStream()) {
            DecoderLoader loader = quantize ? DecoderLoader.QLORA : DecoderLoader.DENSE;
            Decoder decoder = loader.load(config, weights, backend);
            Adapters used = adapter == null ? Adapters.NONE : Adapter.load(decoder, 0, adapter, false).use();
            check(config, decoder.vocab(used), ids);
            OnBackend on = new OnBackend(backend, stream);
            Tensor logits = new Runs(on, decoder).logits(TokenBatch.of(ids), used);
            new SafetensorsWriter().metadata(LOADED, quantize ? NF4 : DENSE)
                    .add(IDS, Tensor.of(ids, 1, ids.length))
                    .add(LOGITS, logits.view(1, ids.length, decoder.vocab(used)))
                    .write(out);
        }
    }

    private static void check(DecoderConfig config, int vocab, int[] ids) {
        if (ids.length == 0 || ids.length > config.maxPositions()) {
            throw new IllegalArgumentException("--ids: expected 1 to " + config.maxPositions() + " token ids, got "
                    + ids.length);
        }
        for (int id : ids) {
            if (id < 0 || id >= vocab) {
                throw new IllegalArgumentException("--ids: " + id + " is outside the vocabulary of " + vocab);
            }
        }
    }
}
