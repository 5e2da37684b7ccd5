package qlora4j.model;

import java.util.Arrays;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** Keys and values of the tokens so far, for every layer, of a fixed number of sequences of bounded length. */
public final class KvCache implements AutoCloseable {
    private final Backend backend;
    private final int capacity;
    private final int[] length;
    private final Tensor[] keys;
    private final Tensor[] values;
    private final Tensor starts;
    private final Tensor lengths;
    private final Allocation memory;

    /**
     * Room for {@code sequences} of up to {@code capacity} tokens.
     *
     * @param type the compute type
     */
    public KvCache(Backend backend, DecoderConfig config, DType type, int sequences, int capacity) {
        this.backend = backend;
        this.capacity = capacity;
        this.length = new int[sequences];
        long rows = (long) sequences * capacity;
        long columns = (long) config.kvHeads() * config.headDim();
        long each = Math.ceilDiv(type.bytes(rows * columns), 64L) * 64;
        long ints = Math.ceilDiv(4L * sequences, 64L) * 64;
        memory = backend.allocate(2 * each * config.layers() + 2 * ints, MemoryUse.KV_CACHE);
        keys = new Tensor[config.layers()];
        values = new Tensor[config.layers()];
        for (int i = 0; i < keys.length; i++) {
            keys[i] = memory.tensor(2 * i * each, type, rows, columns);
            values[i] = memory.tensor((2 * i + 1) * each, type, rows, columns);
        }
        starts = memory.tensor(2 * each * config.layers(), DType.I32, sequences);
        lengths = memory.tensor(2 * each * config.layers() + ints, DType.I32, sequences);
        int[] first = new int[sequences];
        Arrays.setAll(first, i -> i * capacity);
        backend.upload(Tensor.of(first, sequences), starts);
    }

    public int capacity() {
        return capacity;
    }

    public int sequences() {
        return length.length;
    }

    /** Tokens of a sequence that are in the cache. */
    public int length(int sequence) {
        return length[sequence];
    }

    /** Makes room for {@code rows} new tokens of each sequence; an error, and no change, when it would overflow. */
    void grow(int[] rows) {
        for (int i = 0; i < length.length; i++) {
            if (length[i] + rows[i] > capacity) {
                throw new IllegalStateException("sequence " + i + " has " + length[i] + " tokens; " + rows[i]
                        + " more exceed the cache's " + capacity);
            }
        }
        for (int i = 0; i < length.length; i++) {
            length[i] += rows[i];
        }
        backend.upload(Tensor.of(length, length.length), lengths);
    }

    /** Counts one new token of each sequence, which the device has counted itself. */
    void counted() {
        for (int i = 0; i < length.length; i++) {
            length[i]++;
        }
    }

    /** Forgets a sequence's tokens after the first {@code keep}. */
    void truncate(int sequence, int keep) {
        if (keep < 0 || keep > length[sequence]) {
            throw new IllegalArgumentException(keep + " of " + length[sequence] + " cached tokens");
        }
        length[sequence] = keep;
    }

    /** Forgets all tokens. */
    public void clear() {
        Arrays.fill(length, 0);
    }

    Tensor keys(int layer) {
        return keys[layer];
    }

    Tensor values(int layer) {
        return values[layer];
    }

    Tensor starts() {
        return starts;
    }

    Tensor lengths() {
        return lengths;
    }

    @Override
    public void close() {
        memory.close();
    }
}
