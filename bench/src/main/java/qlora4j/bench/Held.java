package qlora4j.bench;

import java.util.ArrayList;
import java.util.List;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** Device memory of one benchmark, given back when it is closed. */
final class Held implements AutoCloseable {
    private final Backend backend;
    private final List<Allocation> memory = new ArrayList<>();

    Held(Backend backend) {
        this.backend = backend;
    }

    /** A zeroed tensor. */
    Tensor tensor(MemoryUse use, DType type, long... shape) {
        Allocation a = backend.allocate(Math.max(1, type.bytes(Tensor.elements(shape))), use);
        memory.add(a);
        return a.tensor(0, type, shape);
    }

    /** A zeroed int tensor with these values. */
    Tensor ints(int... values) {
        Tensor t = tensor(MemoryUse.WORKSPACE, DType.I32, values.length);
        backend.upload(Tensor.of(values, values.length), t);
        return t;
    }

    /** A 4-bit tensor to be quantized into. */
    QuantizedTensor quantized(QuantConfig config, DType type, long... shape) {
        long n = Tensor.elements(shape);
        Tensor packed = tensor(MemoryUse.WEIGHTS, DType.U8, Nibbles.bytes(n));
        if (!config.nested()) {
            return new QuantizedTensor(config, type, shape, packed,
                    tensor(MemoryUse.CONSTANTS, DType.F32, config.blocks(n)), null, null);
        }
        return new QuantizedTensor(config, type, shape, packed,
                tensor(MemoryUse.CONSTANTS, DType.U8, config.blocks(n)),
                tensor(MemoryUse.CONSTANTS, DType.F32, config.nestedBlocks(n)),
                tensor(MemoryUse.CONSTANTS, DType.F32, 1));
    }

    @Override
    public void close() {
        memory.forEach(Allocation::close);
        memory.clear();
    }
}
