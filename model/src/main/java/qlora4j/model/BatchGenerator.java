package qlora4j.model;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Writes tokens one after another for several sequences at once: the weights are read once a token for all of them.
 * Prompts may differ in length, and each row has an adapter of its own or none. Prompts and steps run planned: a step of
 * decoding allocates nothing, and where the backend can record it, is enqueued before the host knows the tokens.
 *
 * <p>All rows go on together to the end of the longest: a row that has ended is still computed, and its tokens are not
 * kept.
 *
 * <p>Greedy tokens are those of a {@link Generator} for each row alone, up to rounding: products of more rows may be
 * summed in another order. Draws depend on the row's seed and length, not on its place in the batch: under the same seed
 * a row draws what it would alone, and two rows of one prompt, adapter and seed are the same.
 */
public final class BatchGenerator implements AutoCloseable {
    private final Decoder decoder;
    private final Backend backend;
    private final Stream stream;
    private final KvCache cache;
    private final int rows;
    private final int capacity;
    private final int vocab;
    private final Allocation buffers;
    private final long logitBytes;
    private Tensor logits;
    private final Tensor history;
    private final Tensor lengths;
    private final Tensor chosen;
    private final DecodeStep step;
    /** Where the host finds the tokens while the next step runs; null until a step is recorded. */
    private HostCopies copies;
    private MemorySegment tokens;

    /**
     * A generator for {@code rows} sequences of up to {@code capacity} tokens each, prompt included. Its KV cache has room
     * for all of them.
     */
    public BatchGenerator(Decoder decoder, int rows, int capacity) {
        if (rows < 1) {
            throw new IllegalArgumentException("a generator for " + rows + " sequences; at least one is needed");
        }
        if (capacity > decoder.config().maxPositions()) {
            throw new IllegalArgumentException("prompt and new tokens together are " + capacity
                    + "; the model was made for at most " + decoder.config().maxPositions());
        }
        this.decoder = decoder;
        this.backend = decoder.backend();
        this.rows = rows;
        this.capacity = capacity;
        stream = backend.openStream();
        cache = new KvCache(backend, decoder.config(), decoder.type(), rows, capacity);
        vocab = decoder.largestVocab();
        DType type = decoder.type() == DType.F64 ? DType.F64 : DType.F32;
        logitBytes = aligned(type.bytes((long) rows * vocab));
        long ints = aligned(DType.I32.bytes(rows));
        buffers = backend.allocate(logitBytes + 3 * ints + DType.I32.bytes((long) rows * capacity),
                MemoryUse.WORKSPACE);
        logits = buffers.tensor(0, type, rows, vocab);
        lengths = buffers.tensor(logitBytes, DType.I32, rows);
        chosen = buffers.tensor(logitBytes + ints, DType.I32, rows);
        history = buffers.tensor(logitBytes + 3 * ints, DType.I32, rows, capacity);
        decoder.prepareToGenerate();
        step = new DecodeStep(decoder, stream, cache);
    }

    private static long aligned(long bytes) {
        return Math.ceilDiv(bytes, ArenaPlan.ALIGNMENT) * ArenaPlan.ALIGNMENT;
    }

    /**
     * What a row is to continue.
     *
     * @param prompt token ids, at least one
     * @param sampling how its tokens are chosen; rows that are to draw differently need seeds of their own
     * @param adapters one adapter or {@link Adapters#NONE}, without dropout
     */
    public record Request(int[] prompt, SamplingConfig sampling, Adapters adapters) {
        public Request {
            if (adapters.ofRow() != null || adapters.dropout() != null) {
                throw new IllegalArgumentException("a row of a batch has one adapter or none, without dropout");
            }
        }
    }

    /** Sees the tokens. */
    @FunctionalInterface
    public interface TokenListener {
        /** A row's next token; returns whether the row goes on. Called in the order of rows for each step. */
        boolean token(int row, int token);
    }

    /** The sequences that it works on at once. */
    public int rows() {
        return rows;
    }

    /**
     * Continues prompts, as many as this generator has rows. Adapters that differ from row to row must all keep to linear
     * layers: a batch has one embedding, one head and one of each norm. On a CPU neighbouring rows of one adapter share
     * its products, too.
     *
     * @param maxNewTokens of each row
     * @param eos tokens that end a row; the one that did is the last of its result
     * @param onToken sees each token of a row that has not ended; null: nobody does
     * @return the new tokens of each row
     * @throws IllegalArgumentException if there are more or fewer prompts than rows, or a prompt is empty or leaves no
     *         room for {@code maxNewTokens}; it names the row, counted from 0
     */
    public int[][] generate(List<Request> requests, int maxNewTokens, Set<Integer> eos, TokenListener onToken) {
        check(requests, maxNewTokens);
        cache.clear();
        return run(requests, maxNewTokens, eos, onToken);
    }

    KvCache cache() {
        return cache;
    }

    /** [S, vocab] of the rows that were fed last; see {@link Generator#lastLogits}. */
    Tensor lastLogits() {
        Tensor host = Tensor.zeros(logits.dtype(), logits.shape());
        backend.download(logits, host);
        return host;
    }

    void check(List<Request> requests, int maxNewTokens) {
        if (requests.size() != rows) {
            throw new IllegalArgumentException(requests.size() + " prompts for a generator of " + rows + " sequences");
        }
        for (int i = 0; i < rows; i++) {
            int length = requests.get(i).prompt.length;
            String where = rows == 1 ? "" : "row " + i + ": ";
            if (length == 0) {
                throw new IllegalArgumentException(where + "the prompt has no tokens");
            }
            if (length + maxNewTokens > capacity) {
                throw new IllegalArgumentException(where + length + " prompt tokens and " + maxNewTokens
                        + " new ones exceed this generator's " + capacity);
            }
        }
    }

    /** {@link #generate}, checked, where the cache holds the first tokens of prompts already, not all of any. */
    int[][] run(List<Request> requests, int maxNewTokens, Set<Integer> eos, TokenListener onToken) {
        Adapters adapters = together(requests);
        logits = logits(adapters);
        prefill(requests, adapters);
        int[] length = requests.stream().mapToInt(r -> r.prompt.length).toArray();
        backend.upload(Tensor.of(length, rows), lengths);
        Written written = new Written(rows, maxNewTokens, eos, onToken);
        boolean goOn = maxNewTokens > 0;
        while (goOn) {
            sample(requests, written);
            // A recorded step is enqueued before the host knows the tokens, for nothing where all texts end with them.
            boolean ahead = written.most() + 1 < maxNewTokens && step.isRecorded(adapters);
            int[] next = ahead ? chosenAhead(adapters) : chosen(length);
            Arrays.setAll(length, i -> length[i] + 1);
            goOn = written.add(next);
            if (!goOn && ahead) {
                for (int i = 0; i < rows; i++) {
                    cache.truncate(i, length[i] - 1);
                }
            } else if (goOn && !ahead) {
                step.run(next, adapters, logits);
                backend.upload(Tensor.of(length, rows), lengths);
            }
        }
        return written.tokens();
    }

    /** What rows have written so far. */
    private static final class Written {
        private final int[][] tokens;
        private final int[] count;
        private final boolean[] ended;
        private final Set<Integer> eos;
        private final TokenListener onToken;
        private int most;

        Written(int rows, int maxNewTokens, Set<Integer> eos, TokenListener onToken) {
            tokens = new int[rows][maxNewTokens];
            count = new int[rows];
            ended = new boolean[rows];
            this.eos = eos;
            this.onToken = onToken;
        }

        int most() {
            return most;
        }

        boolean ended(int row) {
            return ended[row];
        }

        /** Takes the next token of each row; whether any row goes on. */
        boolean add(int[] next) {
            most++;
            boolean goOn = false;
            for (int i = 0; i < next.length; i++) {
                if (!ended[i]) {
                    tokens[i][count[i]++] = next[i];
                    boolean wanted = onToken == null || onToken.token(i, next[i]);
                    ended[i] = !wanted || eos.contains(next[i]) || count[i] == tokens[i].length;
                    goOn |= !ended[i];
                }
            }
            return goOn;
        }

        int[][] tokens() {
            int[][] all = new int[tokens.length][];
            Arrays.setAll(all, i -> Arrays.copyOf(tokens[i], count[i]));
            return all;
        }
    }

    /** The adapter of all rows where it is one, else an adapter a row. */
    private Adapters together(List<Request> requests) {
        Adapters first = requests.getFirst().adapters;
        if (requests.stream().allMatch(r -> r.adapters.equals(first))) {
            return first;
        }
        // Another object each time: a step that was planned and recorded before knew other adapters.
        Tensor slots = buffers.tensor(logitBytes + 2 * aligned(DType.I32.bytes(rows)), DType.I32, rows);
        backend.upload(Tensor.of(slots(requests), rows), slots);
        return new Adapters(Adapters.NO_SLOT, slots, null);
    }

    private static int[] slots(List<Request> requests) {
        return requests.stream().mapToInt(r -> r.adapters.slot()).toArray();
    }

    /** Room for as many logits as there are tokens under these adapters. */
    private Tensor logits(Adapters adapters) {
        int now = decoder.vocab(adapters);
        if (now > vocab) {
            throw new IllegalStateException("this generator was made for " + vocab + " tokens, before an adapter of "
                    + now + " was there; make another one");
        }
        return buffers.tensor(0, logits.dtype(), rows, now);
    }

    /** Feeds what the cache lacks of the prompts, all rows' tokens in one pass. */
    private void prefill(List<Request> requests, Adapters adapters) {
        int[] done = new int[rows];
        int[][] rest = new int[rows][];
        for (int i = 0; i < rows; i++) {
            int[] prompt = requests.get(i).prompt;
            done[i] = cache.length(i);
            rest[i] = Arrays.copyOfRange(prompt, done[i], prompt.length);
        }
        TokenBatch batch = TokenBatch.continuing(rest, done);
        if (adapters.ofRow() == null) {
            decoder.next(stream, batch, adapters, cache, logits);
        } else {
            int[] slots = slots(requests);
            Tensor ofRow = DeviceBatch.upload(stream, Arrays.stream(batch.samples()).map(i -> slots[i]).toArray());
            decoder.next(stream, batch, new Adapters(Adapters.NO_SLOT, ofRow, null), cache, logits);
            stream.release(ofRow);
        }
        for (int i = 0; i < rows; i++) {
            int[] prompt = requests.get(i).prompt;
            backend.upload(Tensor.of(prompt, prompt.length), past(i, 0, prompt.length));
        }
    }

    /** A part of a row's history. */
    private Tensor past(int row, int from, int n) {
        return history.slice((long) row * capacity + from, n);
    }

    /**
     * Chooses the next token of each row: of all in one call, or where rows draw, one by one, since a draw depends on the
     * row's number in its call.
     */
    private void sample(List<Request> requests, Written written) {
        SamplingConfig first = requests.getFirst().sampling;
        if (rows == 1 || !first.doSample() && requests.stream().allMatch(r -> r.sampling.equals(first))) {
            DecoderOps.sample(stream, first, logits, history, lengths, chosen);
            return;
        }
        for (int i = 0; i < rows; i++) {
            if (!written.ended(i)) {
                DecoderOps.sample(stream, requests.get(i).sampling, logits.rows(i, i + 1), history.rows(i, i + 1),
                        lengths.rows(i, i + 1), chosen.rows(i, i + 1));
            }
        }
    }

    /** The token of each row, which goes behind the first {@code length} ones in the history. */
    private int[] chosen(int[] length) {
        Tensor host = Tensor.zeros(DType.I32, rows);
        backend.download(chosen, host);
        for (int i = 0; i < rows; i++) {
            backend.upload(host.rows(i, i + 1), past(i, length[i], 1));
        }
        return host.toInts();
    }

    /** The same, while the step that they are fed to runs already. */
    private int[] chosenAhead(Adapters adapters) {
        if (copies == null) {
            copies = backend.openHostCopies();
            tokens = copies.hostMemory(DType.I32.bytes(rows));
        }
        copies.beginToHost(chosen, tokens);
        step.runAhead(chosen, history, lengths, adapters);
        copies.await();
        return tokens.toArray(ValueLayout.JAVA_INT);
    }

    @Override
    public void close() {
        if (copies != null) {
            copies.close();
        }
        step.close();
        stream.close();
        cache.close();
        buffers.close();
    }
}
