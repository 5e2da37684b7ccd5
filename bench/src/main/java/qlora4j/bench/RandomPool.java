package qlora4j.bench;

import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/**
 * Normal deviates on a device, cheap to have in any amount: a million are drawn on the host and repeated. Tensors begin
 * at different places of it, so that no two are alike.
 */
final class RandomPool implements AutoCloseable {
    /** No multiple of a matrix's columns, so that rows do not repeat in step. */
    private static final int DRAWN = (1 << 20) + 4160;
    /** Elements between the beginnings of two tensors: whole blocks and cache lines. */
    private static final long STRIDE = 64 * 61;
    private static final int PURPOSE = 0x62656e63;

    private final Backend backend;
    private final Tensor host;
    private final Held held;
    private final Tensor device;
    private long next;

    /**
     * A pool on {@code backend}.
     *
     * @param largest elements of the largest tensor that {@link #slice} is asked for
     * @param deviation of the values
     */
    RandomPool(Backend backend, DType type, long largest, double deviation, long seed) {
        this.backend = backend;
        host = Tensor.zeros(type, DRAWN);
        Philox.Sequence draws = new Philox.Sequence(seed, PURPOSE, 0);
        float[] values = new float[DRAWN];
        for (int i = 0; i < DRAWN; i++) {
            values[i] = (float) (deviation * draws.nextGaussian());
        }
        host.copyFrom(Tensor.of(values, DRAWN));
        held = new Held(backend);
        device = held.tensor(MemoryUse.WORKSPACE, type, largest == 0 ? 1 : largest + DRAWN);
        fill(device, 0);
    }

    /** Values on the device, shared with other slices. */
    Tensor slice(long... shape) {
        return device.slice(offset(), shape);
    }

    /** Writes values into a tensor of the device. */
    void fill(Tensor target) {
        fill(target, offset());
    }

    private long offset() {
        return next++ * STRIDE % (DRAWN - DRAWN % 64);
    }

    private void fill(Tensor target, long from) {
        long at = 0;
        long source = from;
        while (at < target.size()) {
            long n = Math.min(target.size() - at, DRAWN - source);
            backend.upload(host.slice(source, n), target.slice(at, n));
            at += n;
            source = 0;
        }
    }

    @Override
    public void close() {
        held.close();
    }
}
