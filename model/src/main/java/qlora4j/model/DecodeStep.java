package qlora4j.model;

import java.util.Arrays;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * One more token of every sequence of a cache, again and again. What changes from token to token lies in tensors of its
 * own, so that a step runs planned, and where the backend can record it, is enqueued by one call.
 */
final class DecodeStep implements AutoCloseable {
    private final Decoder decoder;
    private final Backend backend;
    private final Stream stream;
    private final KvCache cache;
    private Tensor logits;
    private final Allocation integers;
    private final Tensor tokens;
    private final Tensor positions;
    private final DeviceBatch batch;
    private final Tensor last;
    private ArenaPlan plan;
    private Allocation arena;
    private Stream.Recording recording;
    private Adapters planned;
    private int tableMoves;

    DecodeStep(Decoder decoder, Stream stream, KvCache cache) {
        this.decoder = decoder;
        this.backend = decoder.backend();
        this.stream = stream;
        this.cache = cache;
        int n = cache.sequences();
        long each = Math.ceilDiv(4L * (n + 1), ArenaPlan.ALIGNMENT) * ArenaPlan.ALIGNMENT;
        integers = backend.allocate(4 * each, MemoryUse.WORKSPACE);
        tokens = integers.tensor(0, DType.I32, n);
        positions = integers.tensor(each, DType.I32, n);
        Tensor cu = integers.tensor(2 * each, DType.I32, n + 1);
        last = integers.tensor(3 * each, DType.I32, n);
        int[] count = new int[n + 1];
        Arrays.setAll(count, i -> i);
        backend.upload(Tensor.of(count, n + 1), cu);
        backend.upload(Tensor.of(Arrays.copyOf(count, n), n), last);
        batch = new DeviceBatch(tokens, positions, cu, cache);
    }

    /**
     * Feeds a token of each sequence.
     *
     * @param output [S, vocab], where the logits after it go: for one adapter always the same
     */
    void run(int[] next, Adapters adapters, Tensor output) {
        logits = output;
        decoder.show(stream, adapters);
        int[] at = new int[next.length];
        Arrays.setAll(at, cache::length);
        int[] one = new int[next.length];
        Arrays.fill(one, 1);
        cache.grow(one);
        backend.upload(Tensor.of(next, next.length), tokens);
        backend.upload(Tensor.of(at, at.length), positions);
        if (!isPlannedFor(adapters)) {
            replan(adapters);
        } else if (recording != null) {
            recording.replay();
            return;
        } else if (stream.records() && !decoder.hostReadsRows(adapters)) {
            recording = stream.record(() -> planned(adapters));
            recording.replay();
            return;
        }
        planned(adapters);
    }

    private boolean isPlannedFor(Adapters adapters) {
        return plan != null && adapters.equals(planned) && tableMoves == decoder.tableMoves();
    }

    /** Whether {@link #runAhead} works under these adapters: the step is recorded. */
    boolean isRecorded(Adapters adapters) {
        return recording != null && isPlannedFor(adapters);
    }

    /**
     * Feeds tokens that are on the device, and that the host need not know yet, to the recorded step.
     *
     * @param chosen I32 [S]
     * @param history I32 [S, room], to which they are added
     * @param lengths I32 [S] of the history
     */
    void runAhead(Tensor chosen, Tensor history, Tensor lengths, Adapters adapters) {
        decoder.show(stream, adapters);
        cache.counted();
        DecoderOps.advance(stream, chosen, tokens, positions, cache.lengths(), history, lengths);
        recording.replay();
    }

    private void planned(Adapters adapters) {
        stream.begin(plan, arena);
        try {
            decoder.next(stream, batch, last, adapters, cache, logits);
            stream.end();
        } finally {
            stream.abandon();
        }
    }

    /** Plans again when another adapter is used. */
    private void replan(Adapters adapters) {
        forget();
        plan = ArenaPlan.of(s -> decoder.next(s, batch, last, adapters, cache, logits));
        arena = backend.allocate(Math.max(1, plan.bytes()), MemoryUse.ACTIVATIONS);
        planned = adapters;
        tableMoves = decoder.tableMoves();
    }

    private void forget() {
        if (recording != null) {
            recording.close();
            recording = null;
        }
        if (arena != null) {
            arena.close();
            arena = null;
        }
    }

    @Override
    public void close() {
        forget();
        integers.close();
    }
}
