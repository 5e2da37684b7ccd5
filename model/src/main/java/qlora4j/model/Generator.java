package qlora4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.function.IntPredicate;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.BatchGenerator.Request;

/**
 * Writes tokens one after another for one sequence: a {@link BatchGenerator} of one row, which can go on with what its
 * cache holds from the call before.
 */
public final class Generator implements AutoCloseable {
    private final BatchGenerator batch;
    /** Tokens of the last call; as many of them as the cache is long are in it. */
    private int[] seen = {};
    private Adapters seenWith;
    private int reused;

    /** A generator for sequences of up to {@code capacity} tokens, prompt included. */
    public Generator(Decoder decoder, int capacity) {
        batch = new BatchGenerator(decoder, 1, capacity);
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
        return run(0, prompt, maxNewTokens, sampling, adapters, eos, onToken);
    }

    /**
     * As {@link #generate}, but tokens at the prompt's beginning that this generator has seen in its last call, under
     * the same adapters, are not computed again: a conversation's next turn. The logits are those of
     * {@link #generate} up to rounding, since products of fewer rows may be summed in another order.
     */
    public int[] resume(int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters, Set<Integer> eos,
            IntPredicate onToken) {
        int keep = adapters.equals(seenWith) ? common(prompt) : 0;
        return run(keep, prompt, maxNewTokens, sampling, adapters, eos, onToken);
    }

    /** Tokens of the prompt that the last {@link #resume} or {@link #generate} took from the cache. */
    public int reused() {
        return reused;
    }

    /** How many first tokens the prompt and the cache share; the prompt's last one is always computed. */
    private int common(int[] prompt) {
        int most = Math.min(Math.min(batch.cache().length(0), seen.length), prompt.length - 1);
        int n = 0;
        while (n < most && prompt[n] == seen[n]) {
            n++;
        }
        return n;
    }

    private int[] run(int keep, int[] prompt, int maxNewTokens, SamplingConfig sampling, Adapters adapters,
            Set<Integer> eos, IntPredicate onToken) {
        List<Request> request = List.of(new Request(prompt, sampling, adapters));
        batch.check(request, maxNewTokens);
        batch.cache().truncate(0, keep);
        reused = keep;
        // Nothing, should this call fail half-way.
        seen = new int[0];
        int[] made = batch.run(request, maxNewTokens, eos,
                onToken == null ? null : (_, token) -> onToken.test(token))[0];
        seen = Arrays.copyOf(prompt, prompt.length + made.length);
        System.arraycopy(made, 0, seen, prompt.length, made.length);
        seenWith = adapters;
        return made;
    }

    /**
     * The logits of the last row that was fed, float32: for tests and for a look at the alternatives. A backend that records
     * steps has fed one more where a text ended before its limit.
     */
    public float[] lastLogits() {
        return batch.lastLogits().toFloats();
    }

    @Override
    public void close() {
        batch.close();
    }
}
