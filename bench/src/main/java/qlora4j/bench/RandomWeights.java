package qlora4j.bench;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LinearWeight;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderWeights;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A model without a checkpoint: linear layers are quantized on the device from random numbers, norms are one. Weights
 * have the deviation {@code 1/√hidden}, which keeps activations near magnitude one. The same seed gives the same model
 * on every backend.
 */
public final class RandomWeights implements DecoderWeights, AutoCloseable {
    private final Backend backend;
    private final DType type;
    private final QuantConfig quantize;
    private final Held held;
    private final RandomPool pool;
    private final Stream stream;

    private RandomWeights(Backend backend, DecoderConfig config, DType type, QuantConfig quantize, long seed) {
        this.backend = backend;
        this.type = type;
        this.quantize = quantize;
        held = new Held(backend);
        long q = (long) config.heads() * config.headDim();
        long largest = Math.max(q, config.intermediate()) * config.hidden();
        pool = new RandomPool(backend, type, quantize == null ? 0 : largest, 1 / Math.sqrt(config.hidden()), seed);
        stream = backend.openStream();
    }

    /**
     * A model and its memory.
     *
     * @param weights closed to free it
     */
    public record Model(Decoder decoder, RandomWeights weights) implements AutoCloseable {
        @Override
        public void close() {
            weights.close();
        }
    }

    /**
     * Builds a model.
     *
     * @param type the compute type
     * @param quantize how linear layers are held; null: dense
     */
    public static Model model(Backend backend, DecoderConfig config, DType type, QuantConfig quantize, long seed) {
        RandomWeights weights = new RandomWeights(backend, config, type, quantize, seed);
        Decoder decoder = new Decoder(config, backend, type, weights);
        weights.stream.synchronize();
        weights.stream.close();
        weights.pool.close();
        return new Model(decoder, weights);
    }

    @Override
    public Tensor dense(String name, long... shape) {
        Tensor t = held.tensor(MemoryUse.WEIGHTS, type, shape);
        if (shape.length == 1 && name.endsWith(".weight")) {
            backend.upload(Tensor.zeros(type, shape).fill(1), t);
        } else {
            pool.fill(t);
        }
        return t;
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        if (quantize == null) {
            return new LinearWeight.Dense(dense(name, out, in));
        }
        QuantizedTensor w = held.quantized(quantize, type, out, in);
        Blockwise.quantize(stream, pool.slice(out, in), w);
        return new LinearWeight.Quantized(w);
    }

    @Override
    public void close() {
        held.close();
    }
}
