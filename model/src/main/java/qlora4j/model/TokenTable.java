package qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The embedding, the head, or both where they are tied: a table of a row a token, to which adapters add rows and of
 * which they replace some. There is one table for all: before a call the rows of its adapter are put into it, and after
 * another's the rows that were there before. So an adapter costs its rows, not a table. The base, and adapters without
 * rows of their own, see the table as long as it was.
 */
final class TokenTable {
    /** Rows that pass through host memory at once. */
    private static final int CHUNK = 1024;

    private final Backend backend;
    private final DType type;
    private final DecoderWeights weights;
    private final List<SlottedWeight> users;
    private final int vocab;
    private final Map<Integer, TokenRows> own = new LinkedHashMap<>();
    private Tensor table;
    private Allocation grown;
    private TokenRows shown;
    private int moves;

    /** @param type of the table where it has rows of adapters: the compute type */
    TokenTable(Backend backend, DType type, DecoderWeights weights, List<SlottedWeight> users) {
        this.backend = backend;
        this.type = type;
        this.weights = weights;
        this.users = users;
        Tensor base = users.getFirst().base();
        Tensor whole = weights.whole(users.getFirst().name());
        this.vocab = base.rows();
        this.table = whole == null ? base : whole;
    }

    /** The rows of a slot. */
    TokenRows rows(Adapters adapters) {
        return own.get(adapters.slot());
    }

    /** Whether an adapter has rows of its own. */
    boolean hasRows() {
        return !own.isEmpty() || shown != null;
    }

    /** The most rows that any adapter sees. */
    int most() {
        return table.rows();
    }

    /**
     * Gives a slot rows of its own.
     *
     * @param value [k, C] in the order of {@code ids}, those beyond the vocabulary without a gap
     */
    void set(int slot, List<Integer> ids, Tensor value, Tensor grad) {
        try (Stream s = backend.openStream()) {
            show(s, Adapters.NONE);
            s.synchronize();
        }
        TokenRows rows = new TokenRows(backend, ids, value, grad, type);
        int end = Math.max(vocab, rows.end());
        if (!rows.covers(vocab, end)) {
            rows.close();
            throw new IllegalArgumentException("trainable_token_indices " + ids + ": the model has " + vocab
                    + " tokens, and of those that are added each needs its row, from " + vocab + " on");
        }
        if (table.dtype() != type || table.rows() < end) {
            grow(Math.max(end, table.rows()));
        }
        own.put(slot, rows);
        see();
    }

    /** Takes the rows of a slot away. */
    void remove(int slot) {
        TokenRows rows = own.remove(slot);
        if (rows != null) {
            if (shown == rows) {
                try (Stream s = backend.openStream()) {
                    show(s, Adapters.NONE);
                    s.synchronize();
                }
            }
            users.forEach(u -> u.set(slot, null, null));
            rows.close();
        }
    }

    /** How often the table has moved. */
    int moves() {
        return moves;
    }

    private void see() {
        users.forEach(u -> u.rebase(table.rows(0, vocab)));
        own.forEach((slot, rows) -> users
                .forEach(u -> u.set(slot, table.rows(0, Math.max(vocab, rows.end())), null)));
    }

    /** A longer table in the compute type; the one before is freed. */
    private void grow(int rows) {
        Allocation memory = backend.allocate(type.bytes((long) rows * table.cols()), MemoryUse.WEIGHTS);
        Tensor longer = memory.tensor(0, type, rows, table.cols());
        if (!backend.device().equals(Device.PLAN)) {
            for (int from = 0; from < table.rows(); from += CHUNK) {
                int to = Math.min(table.rows(), from + CHUNK);
                Tensor host = host(backend, table.rows(from, to));
                backend.upload(host.dtype() == type ? host : Tensor.zeros(type, host.shape()).copyFrom(host),
                        longer.rows(from, to));
            }
        }
        if (grown != null) {
            grown.close();
        } else {
            users.forEach(u -> weights.release(u.name()));
        }
        grown = memory;
        table = longer;
        moves++;
    }

    /** Puts the rows of a call's adapter into the table. */
    void show(Stream s, Adapters adapters) {
        // A plan knows nothing of the rows' values, and what it shows is not there afterwards.
        if (s.isPlan() || own.isEmpty() && shown == null) {
            return;
        }
        TokenRows wanted = adapters.ofRow() == null ? own.get(adapters.slot()) : null;
        if (shown != null && shown != wanted) {
            shown.restore(s, table);
        }
        if (wanted != null) {
            if (shown != wanted) {
                wanted.keep(s, table);
            }
            wanted.put(s, table);
        }
        shown = wanted;
    }

    /** Some rows on the host. */
    static Tensor host(Backend backend, Tensor rows) {
        Tensor host = Tensor.zeros(rows.dtype(), rows.shape());
        backend.download(rows, host);
        return host;
    }

    /** The mean row of a table, summed in float64, for tokens that are new. */
    static Tensor mean(Backend backend, Tensor table) {
        double[] sum = new double[table.cols()];
        for (int from = 0; from < table.rows(); from += CHUNK) {
            Tensor host = host(backend, table.rows(from, Math.min(table.rows(), from + CHUNK)));
            for (long i = 0; i < host.size(); i++) {
                sum[(int) (i % sum.length)] += host.get(i);
            }
        }
        return Tensor.of(Arrays.stream(sum).map(v -> v / table.rows()).toArray(), 1, sum.length);
    }

    /** The tables of a decoder: one where the head is tied. */
    static List<TokenTable> of(Backend backend, DType type, DecoderWeights weights, SlottedWeight embedding,
            SlottedWeight head, boolean tied) {
        List<TokenTable> tables = new ArrayList<>();
        tables.add(new TokenTable(backend, type, weights, tied ? List.of(embedding, head) : List.of(embedding)));
        if (!tied) {
            tables.add(new TokenTable(backend, type, weights, List.of(head)));
        }
        return tables;
    }
}
