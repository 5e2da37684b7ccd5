package qlora4j.model;

import java.io.IOException;
import java.nio.file.Path;
import qlora4j.lora.LinearWeight;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/** All weights of a decoder as trained parameters, for pre-training: one flat buffer of values, one of gradients. */
public final class TrainableWeights implements DecoderWeights, AutoCloseable {
    /** The purpose number of the initial values' random sequence. */
    private static final int INIT = 0x696e6974;

    private final ParameterStore store;

    /** Zeroed weights of {@code config} in float32. */
    public TrainableWeights(DecoderConfig config, Backend backend) {
        ParameterStore.Builder builder = ParameterStore.builder().countedAs(MemoryUse.WEIGHTS);
        ModelTensors.expected(config).forEach(builder::add);
        store = builder.build(backend);
    }

    /**
     * Draws the initial values: norms 1, biases 0; linear weights normal with deviation 1/√in, those that end a residual branch
     * divided by √(2·layers) (Radford et al. 2019, section 2.3); the embedding normal with {@code embeddingDeviation}
     * around a common normal row of {@code embeddingMean}.
     */
    public void initialize(DecoderConfig config, double embeddingDeviation, double embeddingMean, long seed) {
        int item = 0;
        for (ParameterStore.Parameter p : store.all()) {
            Philox.Sequence rng = new Philox.Sequence(seed, INIT, item++);
            Tensor t = p.value();
            boolean residual = p.name().contains("o_proj") || p.name().contains("down_proj");
            double deviation = 1 / Math.sqrt(t.cols()) / (residual ? Math.sqrt(2.0 * config.layers()) : 1);
            boolean embedding = p.name().contains("embed_tokens") || p.name().contains("lm_head");
            double[] common = new double[embedding ? t.cols() : 0];
            for (int j = 0; j < common.length; j++) {
                common[j] = embeddingMean * rng.nextGaussian();
            }
            for (long i = 0; i < t.size(); i++) {
                double value = t.rank() > 1 ? deviation * rng.nextGaussian() : p.name().endsWith(".bias") ? 0 : 1;
                t.set(i, embedding ? common[(int) (i % t.cols())] + value * embeddingDeviation / deviation : value);
            }
        }
    }

    public ParameterStore store() {
        return store;
    }

    @Override
    public Tensor dense(String name, long... shape) {
        return store.param(name);
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        return new LinearWeight.Dense(store.param(name));
    }

    @Override
    public Tensor grad(String name) {
        return store.grad(name);
    }

    /** Writes {@code model.safetensors} in {@code type}. */
    public void save(Path directory, DType type) throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        for (ParameterStore.Parameter p : store.all()) {
            writer.add(p.name(), Tensor.zeros(type, p.value().shape()).copyFrom(p.value()));
        }
        writer.write(directory.resolve("model.safetensors"));
    }

    @Override
    public void close() {
        store.close();
    }
}
