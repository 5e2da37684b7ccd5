package qlora4j.model;

import java.util.HashMap;
import java.util.Map;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Footprint;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * The memory of a model's dense tensors. An embedding and a head can be freed by themselves, and can have room for rows
 * that an adapter brings.
 */
final class TableMemory {
    private final Backend backend;
    private final DType type;
    private final int rows;
    private final Map<String, Allocation> memory = new HashMap<>();
    private final Map<String, Tensor> whole = new HashMap<>();

    /**
     * @param type the compute type
     * @param rows the least that an embedding and a head have room for, in the compute type; 0: they are as they are
     */
    TableMemory(Backend backend, DType type, int rows) {
        this.backend = backend;
        this.type = type;
        this.rows = rows;
    }

    static boolean isTable(String name) {
        return name.equals(ModelTensors.EMBEDDING) || name.equals(ModelTensors.HEAD);
    }

    /**
     * The type that a dense tensor is held in: a bfloat16 table stays so where the device reads it, unless an adapter
     * puts rows into it.
     *
     * @param stored its type in the checkpoint; null where that is unknown
     */
    DType type(String name, DType stored, Footprint device) {
        return rows == 0 && isTable(name) && stored == DType.BF16 && device.readsBfloat16() ? stored : type;
    }

    /** Memory for a dense tensor. */
    Tensor allocate(String name, DType held, long... shape) {
        if (!isTable(name)) {
            return backend.allocate(MemoryUse.WEIGHTS, held, shape);
        }
        long most = Math.max(shape[0], rows);
        Allocation allocation = backend.allocate(Math.max(1, held.bytes(most * shape[1])), MemoryUse.WEIGHTS);
        Tensor table = allocation.tensor(0, held, most, shape[1]);
        memory.put(name, allocation);
        whole.put(name, table);
        return table.rows(0, shape[0]);
    }

    /** A table with the room behind it; null where there is none of that name. */
    Tensor whole(String name) {
        return whole.get(name);
    }

    /** Frees a table. */
    void release(String name) {
        whole.remove(name);
        Allocation allocation = memory.remove(name);
        if (allocation != null) {
            allocation.close();
        }
    }
}
