package qlora4j.bench;

import qlora4j.model.DecoderConfig;

/**
 * What a piece of work costs at least, counted from its shapes: floating-point operations (a multiply-add is two) and
 * bytes moved. Element-wise work, norms and softmax are not counted.
 */
public final class Work {
    /** Backward attention is five products where forward has two. */
    public static final double ATTENTION_BACKWARD = 2.5;

    private Work() {
    }

    /** Operations of {@code [m, k] x [k, n]}. */
    public static double product(double m, double n, double k) {
        return 2 * m * n * k;
    }

    /** Parameters of the linear layers of all decoder layers; the head is not among them. */
    public static long linearParameters(DecoderConfig c) {
        long q = (long) c.heads() * c.headDim();
        long kv = (long) c.kvHeads() * c.headDim();
        return c.layers() * (2 * q * c.hidden() + 2 * kv * c.hidden() + 3L * c.hidden() * c.intermediate());
    }

    /** Parameters of an adapter of rank {@code r} on all of them: {@code r·(in + out)} each. */
    public static long loraParameters(DecoderConfig c, int r) {
        long q = (long) c.heads() * c.headDim();
        long kv = (long) c.kvHeads() * c.headDim();
        long sides = 2 * (q + c.hidden()) + 2 * (kv + c.hidden()) + 3 * ((long) c.hidden() + c.intermediate());
        return c.layers() * sides * r;
    }

    /**
     * Causal attention of one sequence in all layers: q·k and p·v over the keys that each query sees.
     *
     * @param from the first position that is computed; keys before it come from a cache
     * @param to one past the last
     */
    public static double attention(DecoderConfig c, int from, int to) {
        double keys = 0;
        for (int p = from; p < to; p++) {
            keys += keys(c, p + 1);
        }
        return 4.0 * c.heads() * c.headDim() * keys;
    }

    /** Keys that the query after {@code tokens - 1} others sees, itself included, summed over all layers. */
    private static double keys(DecoderConfig c, double tokens) {
        int windowed = c.slidingWindow() == 0 ? 0 : Math.max(0, c.layers() - c.windowFrom());
        return (c.layers() - windowed) * tokens + windowed * Math.min(tokens, c.slidingWindow());
    }

    /** Tokens through the linear layers without a head, and through an adapter of rank {@code r} (0: none). */
    private static double linears(DecoderConfig c, int r, double tokens) {
        return 2 * tokens * (linearParameters(c) + loraParameters(c, r));
    }

    /** A prompt through all layers, one row of it through the head. */
    public static double prefill(DecoderConfig c, int tokens) {
        return linears(c, 0, tokens) + attention(c, 0, tokens) + product(1, c.vocab(), c.hidden());
    }

    /**
     * A training step of {@code rows} sequences of {@code length} tokens, all but each last one predicted: forward; the
     * gradient of every product's input (the base has none of its own); of the adapters' A and B too. With checkpointing
     * the layers' forward counts twice, without down_proj, whose output nobody needs.
     */
    public static double step(DecoderConfig c, int r, int rows, int length, boolean checkpointing) {
        double tokens = (double) rows * length;
        double base = 2 * tokens * linearParameters(c);
        double adapters = 2 * tokens * loraParameters(c, r);
        double attention = rows * attention(c, 0, length);
        double head = product((double) rows * (length - 1), c.vocab(), c.hidden());
        double forward = base + adapters + attention;
        double down = product(tokens, c.hidden(), c.intermediate()) * c.layers();
        double again = checkpointing ? forward - down : 0;
        return forward + again + base + 2 * adapters + ATTENTION_BACKWARD * attention + 2 * head;
    }

    /**
     * Bytes that one token of decoding must read: all weights once, and keys and values of the tokens so far.
     *
     * @param linearBytes bytes of the linear layers as they are held
     * @param headBytes bytes of the head as it is read for one row
     * @param type bytes of an element of the compute type
     * @param cached tokens in the cache
     */
    public static double decodeBytes(DecoderConfig c, long linearBytes, long headBytes, int type, double cached) {
        return linearBytes + headBytes + 2.0 * c.kvHeads() * c.headDim() * type * keys(c, cached);
    }
}
