package qlora4j.model;

import java.util.function.Function;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LinearWeight;
import qlora4j.tensor.DType;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Tensor;

/** Weights without data on the plan device, which count the bytes that a model would hold. */
public final class ShapeWeights implements DecoderWeights {
    private final PlanBackend backend;
    private final DType type;
    private final Function<String, QuantConfig> form;
    private final Function<String, DType> stored;
    private final TableMemory tables;

    /** @param quantize how linear weights are held; null: dense, in the compute type */
    public ShapeWeights(PlanBackend backend, DType type, QuantConfig quantize) {
        this(backend, type, name -> quantize, name -> type, 0);
    }

    /**
     * As the weights of a checkpoint would be held.
     *
     * @param form how the linear weight of a name is held; null: dense, in the compute type
     * @param stored the type of a dense tensor in the checkpoint; null where it is unknown or in 4 bits
     * @param tableRows see {@link DecoderLoader}
     */
    ShapeWeights(PlanBackend backend, DType type, Function<String, QuantConfig> form, Function<String, DType> stored,
            int tableRows) {
        this.tables = new TableMemory(backend, type, tableRows);
        this.stored = stored;
        this.backend = backend;
        this.type = type;
        this.form = form;
    }

    @Override
    public Tensor dense(String name, long... shape) {
        return tables.allocate(name, tables.type(name, stored.apply(name), backend), shape);
    }

    @Override
    public Tensor whole(String name) {
        return tables.whole(name);
    }

    @Override
    public void release(String name) {
        tables.release(name);
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        QuantConfig quantize = form.apply(name);
        return quantize == null
                ? new LinearWeight.Dense(dense(name, out, in))
                : new LinearWeight.Quantized(QuantizedTensor.allocate(backend, quantize, type, out, in));
    }
}
