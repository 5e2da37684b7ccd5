package qlora4j.model;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Set;
import java.util.function.IntPredicate;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Writes tokens one after another for one sequence. Prompt and steps run planned: a step of decoding allocates nothing.
 */
public final class Generator implements AutoCloseable {
    private final Decoder decoder;
    private final Backend backend;
    private final Stream stream;
    private final KvCache cache;
    private final int capacity;
    private final Allocation buffers;
    private final int vocab;
    private Tensor logits;
    private final Tensor history;
    private final Tensor length;
    private final Tensor chosen;
    private final DecodeStep step;
    /** Where the host finds a token while the next step runs; null until a step is recorded. */
    private HostCopies copies;
    private MemorySegment token;
    /** Tokens of the last call; as many of them as the cache is long are in it. */
    private int[] seen = {};
    private Adapters seenWith;
    private int reused;

    /** A generator for sequences of up to {@code capacity} tokens, prompt included. */
    public Generator(Decoder decoder, int capacity) {
        if (capacity > decoder.config().maxPositions()) {
            throw new IllegalArgumentException("prompt and new tokens together are " + capacity
                    + "; the model was made for at most " + decoder.config().maxPositions());
        }
        this.decoder = decoder;
        this.backend = decoder.backend();
        this.capacity = capacity;
        stream = backend.openStream();
        cache = new KvCache(backend, decoder.config(), decoder.type(), 1, capacity);
        vocab = decoder.largestVocab();
        DType type = decoder.type() == DType.F64 ? DType.F64 : DType.F32;
        long logitBytes = Math.ceilDiv(type.bytes(vocab), 64L) * 64;
        buffers = backend.allocate(logitBytes + 4L * capacity + 64 + 128, MemoryUse.WORKSPACE);
        logits = buffers.tensor(0, type, 1, vocab);
        length = buffers.tensor(logitBytes, DType.I32, 1);
        chosen = buffers.tensor(logitBytes + 64, DType.I32, 1);
        history = buffers.tensor(logitBytes + 128, DType.I32, 1, capacity);
        decoder.prepareToGenerate();
        step = new DecodeStep(decoder, stream, cache);
    }

    /** {@link #generate} or {@link #resume}. */
    @FunctionalInterface
    interface Continuation {
        int[] generate(int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters, Set<Integer> eos,
                IntPredicate onToken);
    }

    /**
     * Continues a prompt.
     *
     * @param eos tokens that end the text; the one that did is the last of the result
     * @param onToken sees each token as it is chosen and says whether to go on; null: always
     * @return the new tokens
     */
    public int[] generate(int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters, Set<Integer> eos,
            IntPredicate onToken) {
        check(prompt, maxNewTokens);
        cache.clear();
        return run(prompt, maxNewTokens, sampling, adapters, eos, onToken);
    }

    private void check(int[] prompt, int maxNewTokens) {
        if (prompt.length == 0) {
            throw new IllegalArgumentException("the prompt has no tokens");
        }
        if (prompt.length + maxNewTokens > capacity) {
            throw new IllegalArgumentException(prompt.length + " prompt tokens and " + maxNewTokens
                    + " new ones exceed this generator's " + capacity);
        }
    }

    /**
     * As {@link #generate}, but tokens at the prompt's beginning that this generator has seen in its last call, under
     * the same adapters, are not computed again: a conversation's next turn. The logits are those of
     * {@link #generate} up to rounding, since products of fewer rows may be summed in another order.
     */
    public int[] resume(int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters, Set<Integer> eos,
            IntPredicate onToken) {
        check(prompt, maxNewTokens);
        cache.truncate(0, adapters.equals(seenWith) ? common(prompt) : 0);
        return run(prompt, maxNewTokens, sampling, adapters, eos, onToken);
    }

    /** Tokens of the prompt that the last {@link #resume} or {@link #generate} took from the cache. */
    public int reused() {
        return reused;
    }

    /** How many first tokens the prompt and the cache share; the prompt's last one is always computed. */
    private int common(int[] prompt) {
        int most = Math.min(Math.min(cache.length(0), seen.length), prompt.length - 1);
        int n = 0;
        while (n < most && prompt[n] == seen[n]) {
            n++;
        }
        return n;
    }

    private int[] run(int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters, Set<Integer> eos,
            IntPredicate onToken) {
        int[] all = Arrays.copyOf(prompt, prompt.length + maxNewTokens);
        int n = prompt.length;
        reused = cache.length(0);
        seen = all;
        seenWith = adapters;
        logits = logits(adapters);
        prefill(prompt, adapters);
        backend.upload(Tensor.of(new int[]{n}, 1), length);
        while (n < all.length) {
            DecoderOps.sample(stream, sampling, logits, history, length, chosen);
            // A recorded step is enqueued before the host knows the token, for nothing where the text ends with it.
            boolean ahead = n + 1 < all.length && step.isRecorded(adapters);
            int next = ahead ? chosenAhead(adapters) : chosen(n);
            all[n++] = next;
            boolean goOn = onToken == null || onToken.test(next);
            if (!goOn || eos.contains(next) || n == all.length) {
                if (ahead) {
                    cache.truncate(0, n - 1);
                }
                break;
            }
            if (!ahead) {
                step.run(new int[]{next}, adapters, logits);
                backend.upload(Tensor.of(new int[]{n}, 1), length);
            }
        }
        return Arrays.copyOfRange(all, prompt.length, n);
    }

    /**
     * The logits of the last row that was fed, float32: for tests and for a look at the alternatives. A backend that records
     * steps has fed one more where a text ended before its limit.
     */
    public float[] lastLogits() {
        Tensor host = Tensor.zeros(logits.dtype(), logits.shape());
        backend.download(logits, host);
        return host.toFloats();
    }

    /** Room for as many logits as there are tokens under these adapters. */
    private Tensor logits(Adapters adapters) {
        int now = decoder.vocab(adapters);
        if (now > vocab) {
            throw new IllegalStateException("this generator was made for " + vocab + " tokens, before an adapter of "
                    + now + " was there; make another one");
        }
        return buffers.tensor(0, logits.dtype(), 1, now);
    }

    private void prefill(int[] prompt, Adapters adapters) {
        decoder.next(stream, TokenBatch.continuing(Arrays.copyOfRange(prompt, reused, prompt.length), reused),
                adapters, cache, logits);
        backend.upload(Tensor.of(prompt, 1, prompt.length), history.slice(0, 1, prompt.length));
    }

    /** The token after the first {@code n}, which goes behind them in the history. */
    private int chosen(int n) {
        Tensor host = Tensor.zeros(DType.I32, 1);
        backend.download(chosen, host);
        if (n < capacity) {
            backend.upload(host, history.slice(n, 1));
        }
        return (int) host.get(0);
    }

    /** The same, while the step that it is fed to runs already. */
    private int chosenAhead(Adapters adapters) {
        if (copies == null) {
            copies = backend.openHostCopies();
            token = copies.hostMemory(Integer.BYTES);
        }
        copies.beginToHost(chosen, token);
        step.runAhead(chosen, history, length, adapters);
        copies.await();
        return token.get(ValueLayout.JAVA_INT, 0);
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
