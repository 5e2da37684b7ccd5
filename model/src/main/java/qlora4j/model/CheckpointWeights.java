package qlora4j.model;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LinearWeight;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Weights from a checkpoint, one tensor at a time: linear layers are quantized as they stream from the file (or read as
 * they are from a 4-bit checkpoint), everything else is converted to the compute type, except that a bfloat16 embedding
 * or head may stay ({@link TableMemory#type}). Norms, embeddings and the head are never quantized.
 */
final class CheckpointWeights implements DecoderWeights {
    private final SafetensorsView view;
    private final Backend backend;
    private final DType type;
    private final QuantConfig quantize;
    private final TableMemory tables;

    /**
     * @param type the compute type
     * @param quantize how dense linear weights are quantized; null: they stay dense
     * @param tableRows see {@link DecoderLoader}
     */
    CheckpointWeights(SafetensorsView view, Backend backend, DType type, QuantConfig quantize, int tableRows) {
        this.view = view;
        this.backend = backend;
        this.type = type;
        this.quantize = quantize;
        this.tables = new TableMemory(backend, type, tableRows);
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
    public Tensor dense(String name, long... shape) {
        boolean packed = Bnb4bit.contains(view, name);
        DType held = tables.type(name, packed ? null : checked(name, shape).dtype(), backend);
        Tensor device = tables.allocate(name, held, shape);
        if (packed) {
            // A head in 4 bits: where a list of modules to skip leaves it out. It is used as its dequantized values.
            try (Stream s = backend.openStream()) {
                Blockwise.dequantize(s, packed(name, shape), device);
                s.synchronize();
            }
        } else {
            Tensor source = checked(name, shape);
            // A host converts as it copies.
            backend.upload(onHost() ? source : converted(source, held), device);
            view.unload(name);
        }
        return device;
    }

    /** A weight that is in 4 bits already, on the device. */
    private QuantizedTensor packed(String name, long... shape) {
        try {
            QuantizedTensor w = Bnb4bit.read(view, name);
            if (!Arrays.equals(w.shape(), shape)) {
                throw new IOException(view.info(name).file() + ": " + name + " is " + w + ", config.json asks for "
                        + Arrays.toString(shape));
            }
            QuantizedTensor device = w.copyTo(backend);
            view.unload(name);
            return device;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        if (Bnb4bit.contains(view, name)) {
            return new LinearWeight.Quantized(packed(name, out, in));
        }
        if (quantize == null) {
            return new LinearWeight.Dense(dense(name, out, in));
        }
        Tensor source = checked(name, out, in);
        // As from_pretrained(dtype=bfloat16) does: cast to the compute type, then quantize.
        DType held = type == DType.BF16 || type == DType.F16 ? type : source.dtype();
        try (Stream s = backend.openStream()) {
            if (onHost() && held == source.dtype()) {
                return new LinearWeight.Quantized(Blockwise.quantize(s, source, quantize));
            }
            try (Allocation staging = backend.allocate(held.bytes(source.size()), MemoryUse.WORKSPACE)) {
                Tensor device = staging.tensor(0, held, source.shape());
                backend.upload(onHost() ? source : converted(source, held), device);
                LinearWeight.Quantized w = new LinearWeight.Quantized(Blockwise.quantize(s, device, quantize));
                s.synchronize();
                return w;
            }
        } finally {
            view.unload(name);
        }
    }

    private boolean onHost() {
        return backend.device().isHost();
    }

    private Tensor checked(String name, long... shape) {
        Tensor t = view.tensor(name);
        if (!t.hasShape(shape)) {
            throw new IllegalArgumentException(view.info(name).file() + ": " + name + " is " + t
                    + ", config.json asks for " + Arrays.toString(shape));
        }
        if (!t.dtype().isFloat()) {
            throw new IllegalArgumentException(view.info(name).file() + ": " + name + " is " + t.dtype()
                    + ", a float type is expected");
        }
        return t;
    }

    private static Tensor converted(Tensor source, DType type) {
        return source.dtype() == type ? source : Tensor.zeros(type, source.shape()).copyFrom(source);
    }
}
