package qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import qlora4j.lora.Linear;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The rows of a table that an adapter has its own of (PEFT's trainable_token_indices), and their gradients from the
 * embedding and from the head. Everything is made of operations that there are: no kernel knows of them.
 */
final class TokenRows implements AutoCloseable {
    /** Rows that follow each other here and in the table. */
    private record Run(int from, int to, int at) {
    }

    private final int[] ids;
    private final Tensor value;
    private final Tensor grad;
    private final Map<Integer, Integer> rowOf = new HashMap<>();
    private final List<Run> runs = new ArrayList<>();
    private final Allocation memory;
    private final Tensor count;
    /** The table's own rows, while those of the adapter stand in their place. */
    private final Tensor originals;

    /**
     * @param value [k, C] in the order of {@code ids}
     * @param grad of the same shape; null where they are not trained
     * @param type of the table
     */
    TokenRows(Backend backend, List<Integer> ids, Tensor value, Tensor grad, DType type) {
        this.ids = ids.stream().mapToInt(Integer::intValue).toArray();
        this.value = value;
        this.grad = grad;
        int k = this.ids.length;
        for (int i = 0; i < k; i++) {
            rowOf.put(this.ids[i], i);
            if (i > 0 && this.ids[i] == this.ids[i - 1] + 1) {
                Run last = runs.removeLast();
                runs.add(new Run(last.from, i + 1, last.at));
            } else {
                runs.add(new Run(i, i + 1, this.ids[i]));
            }
        }
        long rowBytes = type.bytes(value.size());
        memory = backend.allocate(rowBytes + 4L * k, MemoryUse.WORKSPACE);
        originals = memory.tensor(0, type, value.shape());
        count = memory.tensor(rowBytes, DType.I32, k);
        if (!backend.device().equals(Device.PLAN)) {
            int[] numbers = new int[k];
            Arrays.setAll(numbers, i -> i);
            backend.upload(Tensor.of(numbers, k), count);
        }
    }

    /** One more than the largest id. */
    int end() {
        return Arrays.stream(ids).max().orElse(0) + 1;
    }

    /** Whether all ids from {@code from} to {@code to} (exclusive) are among these. */
    boolean covers(int from, int to) {
        for (int id = from; id < to; id++) {
            if (!rowOf.containsKey(id)) {
                return false;
            }
        }
        return true;
    }

    /** Keeps the table's rows, those that it has. */
    void keep(Stream s, Tensor table) {
        for (Run r : runs) {
            DecoderOps.embedding(s, count.rows(0, r.to - r.from), table.rows(r.at, r.at + r.to - r.from),
                    originals.rows(r.from, r.to));
        }
    }

    /** Puts the rows into the table. */
    void put(Stream s, Tensor table) {
        copy(s, value, table);
    }

    /** Puts what {@link #keep} kept back. */
    void restore(Stream s, Tensor table) {
        copy(s, originals, table);
    }

    private void copy(Stream s, Tensor rows, Tensor table) {
        for (Run r : runs) {
            DecoderOps.embedding(s, count.rows(0, r.to - r.from), rows.rows(r.from, r.to),
                    table.rows(r.at, r.at + r.to - r.from));
        }
    }

    boolean trained() {
        return grad != null;
    }

    /** {@code dRows[i] += Σ dh} over the batch's rows whose token is the i-th. What is taken depends on N alone. */
    void embeddingBackward(Stream s, int[] tokens, Tensor dh) {
        int[] at = new int[tokens.length];
        int[] row = new int[tokens.length];
        int n = 0;
        for (int i = 0; i < tokens.length; i++) {
            Integer own = rowOf.get(tokens[i]);
            if (own != null) {
                at[n] = i;
                row[n++] = own;
            }
        }
        Tensor from = DeviceBatch.upload(s, at);
        Tensor to = DeviceBatch.upload(s, row);
        Tensor part = s.take(dh.dtype(), dh.shape());
        if (n > 0) {
            DecoderOps.gatherRows(s, dh, from.rows(0, n), part.rows(0, n));
            DecoderOps.embeddingBackward(s, to.rows(0, n), part.rows(0, n), grad);
        }
        s.release(from, to, part);
    }

    /**
     * {@code dRows += dLogits[:, ids]ᵀ·x} for chunks of rows: the part of the head's gradient that is these rows'. All is
     * taken here, so that what is taken does not depend on the number of chunks.
     */
    final class HeadGradient implements DecoderOps.LogitGradient {
        private final Tensor index;
        private final Tensor columns;

        /** @param rows the most of a chunk */
        HeadGradient(Stream s, int rows, int vocab) {
            int[] at = new int[Math.multiplyExact(rows, ids.length)];
            for (int i = 0; i < at.length; i++) {
                at[i] = Math.addExact(Math.multiplyExact(i / ids.length, vocab), ids[i % ids.length]);
            }
            index = DeviceBatch.upload(s, at);
            columns = s.take(Linear.wide(grad.dtype()), rows, ids.length);
        }

        @Override
        public void rows(Stream s, Tensor dLogits, Tensor x) {
            int n = dLogits.rows();
            Tensor own = columns.rows(0, n);
            DecoderOps.gatherRows(s, dLogits.view(dLogits.size(), 1), index.rows(0, (long) n * ids.length),
                    own.view(own.size(), 1));
            Matmul.tn(s, own, x, 1, grad, true);
        }

        void release(Stream s) {
            s.release(index, columns);
        }
    }

    @Override
    public void close() {
        memory.close();
    }
}
