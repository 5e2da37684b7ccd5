package qlora4j.model;

import qlora4j.lora.Linear;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * The rotations of positions. As transformers does, angles are the float32 product of position and inverse frequency,
 * and cosines and sines are rounded to the compute type.
 */
final class RopeTable {
    private static final int LEAST = 256;

    private final DecoderConfig config;
    private final Backend backend;
    private final DType type;
    private Tensor table;

    /** @param type the compute type */
    RopeTable(DecoderConfig config, Backend backend, DType type) {
        this.config = config;
        this.backend = backend;
        this.type = type;
    }

    /** The table for at least {@code positions} positions, {@code [rows, head_dim]}: cosines, then sines. */
    Tensor atLeast(int positions) {
        if (table != null && table.rows() >= positions) {
            return table;
        }
        if (positions > config.maxPositions()) {
            throw new IllegalArgumentException("a sequence of " + positions + " tokens: the model was made for at most "
                    + config.maxPositions());
        }
        int count = Math.min(config.maxPositions(), Math.max(LEAST, Integer.highestOneBit(positions) * 2));
        DType tableType = Linear.wide(type);
        // A table that was outgrown stays where it is: a recorded step may read it. All together are less than the last.
        Tensor longer = backend.allocate(MemoryUse.CONSTANTS, tableType, count, config.headDim());
        if (!longer.device().equals(Device.PLAN)) {
            backend.upload(values(count, tableType), longer);
        }
        table = longer;
        return table;
    }

    private Tensor values(int count, DType tableType) {
        int half = config.headDim() / 2;
        double[] frequencies = config.inverseFrequencies();
        Tensor host = Tensor.zeros(tableType, count, config.headDim());
        Tensor rounded = Tensor.zeros(type, 1);
        for (int p = 0; p < count; p++) {
            for (int j = 0; j < half; j++) {
                double angle = (float) p * (float) frequencies[j];
                rounded.set(0, StrictMath.cos(angle));
                host.set((long) p * config.headDim() + j, rounded.get(0));
                rounded.set(0, StrictMath.sin(angle));
                host.set((long) p * config.headDim() + half + j, rounded.get(0));
            }
        }
        return host;
    }
}
