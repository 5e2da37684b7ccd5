package qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A Llama-family decoder, described by its configuration: embedding, layers, final norm, head. It holds no activations
 * and touches no element; everything happens in operations on a stream, so the same code runs on every backend, in
 * every compute type, and on the plan device.
 *
 * <p>Not for several threads at once: the rotary table grows, and adapters with rows of tokens of their own take turns in
 * one table. Calls on several streams must follow each other.
 */
public final class Decoder {
    private final DecoderConfig config;
    private final Backend backend;
    private final DType type;
    private final SlottedWeight embedding;
    private final SlottedWeight norm;
    private final SlottedWeight head;
    private final Map<String, SlottedWeight> others = new LinkedHashMap<>();
    private final List<DecoderLayer> layers = new ArrayList<>();
    private final Map<String, Linear> linears = new LinkedHashMap<>();
    private final List<TokenTable> tables;
    private final RopeTable rope;
    private final ExactHead exactHead = new ExactHead();

    /**
     * Builds the decoder over its weights.
     *
     * @param type the compute type: float32, bfloat16, or float64 on the scalar backend
     */
    public Decoder(DecoderConfig config, Backend backend, DType type, DecoderWeights weights) {
        this.config = config;
        this.backend = backend;
        this.type = type;
        embedding = slotted(ModelTensors.EMBEDDING, weights, config.vocab(), config.hidden());
        for (int i = 0; i < config.layers(); i++) {
            layers.add(layer(i, weights));
        }
        norm = slotted(ModelTensors.FINAL_NORM, weights, config.hidden());
        if (config.tieWordEmbeddings()) {
            head = new SlottedWeight(ModelTensors.HEAD, embedding.base(), weights.grad(ModelTensors.EMBEDDING));
            others.put(head.name(), head);
        } else {
            head = slotted(ModelTensors.HEAD, weights, config.vocab(), config.hidden());
        }
        rope = new RopeTable(config, backend, type);
        tables = TokenTable.of(backend, type, weights, embedding, head, config.tieWordEmbeddings());
    }

    private DecoderLayer layer(int i, DecoderWeights weights) {
        String prefix = "model.layers." + i + ".";
        int q = config.heads() * config.headDim();
        int kv = config.kvHeads() * config.headDim();
        int c = config.hidden();
        int f = config.intermediate();
        boolean qkvBias = config.qkvBias();
        boolean mb = config.mlpBias();
        List<Linear> l = List.of(linear(prefix + "self_attn.q_proj", q, c, qkvBias, weights),
                linear(prefix + "self_attn.k_proj", kv, c, qkvBias, weights),
                linear(prefix + "self_attn.v_proj", kv, c, qkvBias, weights),
                linear(prefix + "self_attn.o_proj", c, q, config.outputBias(), weights),
                linear(prefix + "mlp.gate_proj", f, c, mb, weights),
                linear(prefix + "mlp.up_proj", f, c, mb, weights),
                linear(prefix + "mlp.down_proj", c, f, mb, weights));
        int d = config.headDim();
        // A GPU has memory for it, or uses checkpointing; on the host every megabyte is the user's.
        return new DecoderLayer(config, i, backend.isOnHost(), slotted(prefix + "input_layernorm.weight", weights, c),
                slotted(prefix + "post_attention_layernorm.weight", weights, c),
                config.qkNorm() ? slotted(prefix + "self_attn.q_norm.weight", weights, d) : null,
                config.qkNorm() ? slotted(prefix + "self_attn.k_norm.weight", weights, d) : null, l);
    }

    private SlottedWeight slotted(String name, DecoderWeights weights, long... shape) {
        SlottedWeight weight = new SlottedWeight(name, weights.dense(name, shape), weights.grad(name));
        others.put(name, weight);
        return weight;
    }

    private Linear linear(String name, int out, int in, boolean biased, DecoderWeights weights) {
        Tensor bias = biased ? weights.dense(name + ".bias", out) : null;
        Linear linear = new Linear(name, linears.size(), weights.linear(name + ".weight", out, in), bias,
                weights.grad(name + ".weight"), biased ? weights.grad(name + ".bias") : null);
        linears.put(name, linear);
        return linear;
    }

    public DecoderConfig config() {
        return config;
    }

    public Backend backend() {
        return backend;
    }

    /** The compute type of activations. */
    public DType type() {
        return type;
    }

    /** The linear layers by module path, in the order of the model; the head is not among them. */
    public Map<String, Linear> linears() {
        return linears;
    }

    /** The weights that are no linear layer's, by their names in the checkpoint; a tied head is among them. */
    Map<String, SlottedWeight> others() {
        return others;
    }

    /** The table of the embedding, and of the head where that is another one. */
    TokenTable table(boolean ofHead) {
        return ofHead ? tables.getLast() : tables.getFirst();
    }

    /** Tokens under these adapters: of logits, the columns. */
    public int vocab(Adapters adapters) {
        return head.weight(adapters).rows();
    }

    /** The most that {@link #vocab(Adapters)} gives of one adapter. */
    public int largestVocab() {
        return Math.max(table(true).most(), head.most());
    }

    /** How often the tables have moved: a step that was recorded before reads memory that is no longer theirs. */
    int tableMoves() {
        return tables.stream().mapToInt(TokenTable::moves).sum();
    }

    /** Before a call, or the replay of one: the adapter's rows of the tables are put in place. */
    void show(Stream s, Adapters adapters) {
        tables.forEach(t -> t.show(s, adapters));
    }

    /** Whether rows of one call may have different adapters: all of them keep to linear layers. */
    boolean takesRows() {
        return others.values().stream().noneMatch(SlottedWeight::hasOwn);
    }

    /** Whether the host looks which adapter a row has: such a step cannot be recorded. */
    boolean hostReadsRows(Adapters adapters) {
        return linears.values().stream().anyMatch(l -> l.hostReadsRows(adapters));
    }

    /** Looks at the hidden states as they pass: 0 is the embedding, L the last layer's output before the norm. */
    public interface HiddenObserver {
        void hidden(int index, Tensor h);
    }

    private Tensor embed(Stream s, DeviceBatch b, Adapters adapters) {
        Tensor h = s.take(type, b.tokens.size(), config.hidden());
        DecoderOps.embedding(s, b.tokens, embedding.weight(adapters), h);
        return h;
    }

    private Tensor normed(Stream s, Tensor h, Adapters adapters) {
        Tensor n = s.take(type, h.rows(), config.hidden());
        Tensor rstd = s.take(Linear.wide(type), h.rows());
        DecoderOps.rmsNorm(s, h, norm.weight(adapters), config.rmsNormEps(), n, rstd);
        s.release(rstd);
        return n;
    }

    /** The linear layers with which a layer begins; none of those that are not there. */
    private List<Linear> firstOf(int layer) {
        return layer < layers.size() ? layers.get(layer).first() : List.of();
    }

    /**
     * Runs all layers without keeping what a backward would need; h is released.
     *
     * @param ends null, or I32 [K] the only rows whose result is wanted, [K, C]
     */
    private Tensor run(Stream s, DeviceBatch b, Tensor table, Adapters adapters, KvCache cache, Tensor h, Tensor ends,
            HiddenObserver observer) {
        for (DecoderLayer layer : layers) {
            if (observer != null) {
                observer.hidden(layer.index, h);
            }
            Tensor wanted = layer == layers.getLast() ? ends : null;
            Tensor out = s.take(type, wanted == null ? h.rows() : wanted.size(), config.hidden());
            layer.forward(s, b, table, adapters, cache, h, wanted, out, false, firstOf(layer.index + 1)).release(s);
            s.release(h);
            h = out;
        }
        return h;
    }

    /**
     * Logits of all rows.
     *
     * @param observer sees the hidden states, the last one after the final norm (as transformers reports them); or null
     * @param logits [N, vocab] of the compute type, overwritten
     */
    public void logits(Stream s, TokenBatch batch, Adapters adapters, HiddenObserver observer, Tensor logits) {
        show(s, adapters);
        Tensor table = rope.atLeast(batch.maxLength());
        DeviceBatch b = new DeviceBatch(s, batch);
        Tensor h = run(s, b, table, adapters, null, embed(s, b, adapters), null, observer);
        Tensor n = normed(s, h, adapters);
        s.release(h);
        if (observer != null) {
            observer.hidden(config.layers(), n);
        }
        Matmul.nt(s, n, head.weight(adapters), 1, logits, false);
        s.release(n);
        b.release(s);
    }

    /**
     * Runs new tokens of cached sequences and gives the logits of each sequence's last row.
     *
     * @param batch the new tokens of every sequence of the cache, positions continuing
     * @param logits [S, vocab] float32 or the compute type, overwritten
     */
    public void next(Stream s, TokenBatch batch, Adapters adapters, KvCache cache, Tensor logits) {
        int[] rows = new int[batch.sequences()];
        int[] last = new int[batch.sequences()];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = batch.cuLengths()[i + 1] - batch.cuLengths()[i];
            last[i] = batch.cuLengths()[i + 1] - 1;
        }
        cache.grow(rows);
        show(s, adapters);
        next(s, batch, last, adapters, cache, logits);
    }

    private void next(Stream s, TokenBatch batch, int[] last, Adapters adapters, KvCache cache, Tensor logits) {
        DeviceBatch b = new DeviceBatch(s, batch, cache);
        Tensor index = DeviceBatch.upload(s, last);
        next(s, b, index, adapters, cache, logits);
        s.release(index);
        b.release(s);
    }

    /** As above with everything on the device already, and the cache grown. */
    void next(Stream s, DeviceBatch b, Tensor last, Adapters adapters, KvCache cache, Tensor logits) {
        // A step of decoding has no other rows; which adapter a row has goes by all of them.
        boolean others = b.tokens.size() > last.size() && adapters.ofRow() == null;
        Tensor h = run(s, b, rope.atLeast(cache.capacity()), adapters, cache, embed(s, b, adapters),
                others ? last : null, null);
        Tensor ends = h;
        if (!others) {
            ends = s.take(type, last.size(), config.hidden());
            DecoderOps.gatherRows(s, h, last, ends);
            s.release(h);
        }
        Tensor n = normed(s, ends, adapters);
        s.release(ends);
        exactHead.logits(s, n, head.weight(adapters), logits);
        s.release(n);
    }

    /** Bytes of the head that a row of logits reads, under no adapter. */
    public long headBytes() {
        return exactHead.bytes(head.base());
    }

    /** Holds the head in fewer bytes where that loses nothing and nobody trains it; looked for once. */
    void prepareToGenerate() {
        if (head.grad(Adapters.NONE) == null && tables.stream().noneMatch(TokenTable::hasRows)) {
            exactHead.look(backend, head.base());
        }
    }

    /**
     * How a loss is computed.
     *
     * @param inputs where the inputs of checkpointed layers are kept; null: on the device
     * @param noise what is added to the embeddings; null: nothing
     */
    public record LossOptions(boolean gradients, boolean checkpointing, LayerInputStore inputs, EmbeddingNoise noise) {
        public static final LossOptions EVALUATE = new LossOptions(false, false);

        public LossOptions {
            if (inputs != null && !checkpointing) {
                throw new IllegalArgumentException("--offload-activations needs --gradient-checkpointing: it moves the"
                        + " inputs of checkpointed layers to host memory");
            }
        }

        /** Without noise. */
        public LossOptions(boolean gradients, boolean checkpointing, LayerInputStore inputs) {
            this(gradients, checkpointing, inputs, null);
        }

        /** All that is kept is kept on the device. */
        public LossOptions(boolean gradients, boolean checkpointing) {
            this(gradients, checkpointing, null, null);
        }
    }

    /**
     * The cross-entropy of a labelled batch, and its gradients: {@code loss += scale·Σ nll}, gradients of trained
     * parameters are accumulated. With checkpointing only the layers' inputs are kept and each layer is run again
     * before its backward, which changes no number.
     *
     * @param scale [1] of float32 or float64, on the device
     * @param loss F64 [1], accumulated
     * @param nll null, or [number of labels] where each labelled row's negative log-likelihood goes, in row order
     */
    public void loss(Stream s, TokenBatch batch, Adapters adapters, LossOptions options, Tensor scale, Tensor loss,
            Tensor nll) {
        int[] labelled = batch.labelRows();
        if (labelled.length == 0) {
            throw new IllegalArgumentException("a batch without a single label token has no loss");
        }
        show(s, adapters);
        Tensor table = rope.atLeast(batch.maxLength());
        DeviceBatch b = new DeviceBatch(s, batch);
        Tensor index = DeviceBatch.upload(s, labelled);
        Tensor labels = DeviceBatch.upload(s, Arrays.stream(labelled).map(i -> batch.labels()[i]).toArray());
        Adapters used = withRows(adapters, b);
        Tensor h = embed(s, b, used);
        if (options.noise != null) {
            DecoderOps.embeddingNoise(s, options.noise, b.samples, b.positions, b.cu, h);
        }
        if (!options.gradients) {
            h = run(s, b, table, used, null, h, null, null);
            Tensor dh = head(s, used, h, index, labels, scale, loss, nll, false);
            s.release(dh, h);
        } else {
            trainStep(s, b, table, used, options, h, index, labels, scale, loss, nll);
        }
        s.release(index, labels);
        b.release(s);
    }

    private static Adapters withRows(Adapters adapters, DeviceBatch b) {
        Dropout d = adapters.dropout();
        return d == null ? adapters
                : new Adapters(adapters.slot(), adapters.ofRow(),
                        new Dropout(d.p(), d.seed(), d.step(), b.samples, b.positions));
    }

    private void trainStep(Stream s, DeviceBatch b, Tensor table, Adapters adapters, LossOptions options, Tensor first,
            Tensor index, Tensor labels, Tensor scale, Tensor loss, Tensor nll) {
        int n = layers.size();
        Tensor[] inputs = new Tensor[n + 1];
        DecoderLayer.Saved[] saved = new DecoderLayer.Saved[n];
        inputs[0] = first;
        LayerInputStore store = options.inputs;
        for (int i = 0; i < n; i++) {
            // The last layer's input is needed again at once.
            boolean away = store != null && i < n - 1;
            if (away) {
                store.put(s, i, inputs[i]);
            }
            inputs[i + 1] = s.take(type, first.rows(), config.hidden());
            saved[i] = layers.get(i).forward(s, b, table, adapters, null, inputs[i], null, inputs[i + 1],
                    !options.checkpointing, firstOf(i + 1));
            if (options.checkpointing) {
                saved[i].release(s);
            }
            if (away) {
                store.settle(s);
                s.release(inputs[i]);
            }
        }
        Tensor dh = head(s, adapters, inputs[n], index, labels, scale, loss, nll, true);
        s.release(inputs[n]);
        for (int i = n - 1; i >= 0; i--) {
            DecoderLayer layer = layers.get(i);
            if (store != null && i < n - 1) {
                store.settle(s);
            }
            if (store != null && i > 0) {
                // Fetched while this layer is worked on.
                inputs[i - 1] = s.take(type, first.rows(), config.hidden());
                store.get(s, i - 1, inputs[i - 1]);
            }
            DecoderLayer.Saved a = options.checkpointing
                    ? layer.forward(s, b, table, adapters, null, inputs[i], null, null, true, List.of())
                    : saved[i];
            DecoderLayer below = i > 0 ? layers.get(i - 1) : null;
            layer.backward(s, b, table, adapters, a, dh,
                    below == null ? List.of() : options.checkpointing ? below.first() : below.last());
            a.release(s);
            s.release(inputs[i]);
        }
        Tensor dEmbedding = embedding.grad(adapters);
        if (dEmbedding != null) {
            DecoderOps.embeddingBackward(s, b.tokens, dh, dEmbedding);
        }
        TokenRows rows = table(false).rows(adapters);
        if (rows != null && rows.trained()) {
            rows.embeddingBackward(s, b.hostTokens, dh);
        }
        s.release(dh);
    }

    /** Final norm, head and loss of the labelled rows; returns dh [N, C] of all rows when gradients are wanted. */
    private Tensor head(Stream s, Adapters adapters, Tensor h, Tensor index, Tensor labels, Tensor scale, Tensor loss,
            Tensor nll, boolean gradients) {
        long k = index.size();
        int c = config.hidden();
        DType wide = Linear.wide(type);
        Tensor x = s.take(type, k, c);
        DecoderOps.gatherRows(s, h, index, x);
        Tensor n = s.take(type, k, c);
        Tensor rstd = s.take(wide, k);
        DecoderOps.rmsNorm(s, x, norm.weight(adapters), config.rmsNormEps(), n, rstd);
        Tensor rowLoss = nll == null ? s.take(wide, k) : nll;
        Tensor dn = gradients ? s.take(type, k, c) : null;
        Tensor w = head.weight(adapters);
        TokenRows rows = table(true).rows(adapters);
        int chunk = backend.logitRows(w.rows());
        TokenRows.HeadGradient own = gradients && rows != null && rows.trained()
                ? rows.new HeadGradient(s, (int) Math.min(chunk, k), w.rows())
                : null;
        DecoderOps.headLoss(s, n, w, labels, scale, rowLoss, loss, dn, gradients ? head.grad(adapters) : null,
                own, chunk);
        if (own != null) {
            own.release(s);
        }
        s.release(nll == null ? rowLoss : null);
        Tensor dh = null;
        if (gradients) {
            Tensor dx = s.take(type, k, c);
            DecoderOps.rmsNormBackward(s, dn, x, norm.weight(adapters), rstd, null, dx, norm.grad(adapters));
            dh = s.take(type, h.rows(), c);
            s.zero(dh);
            DecoderOps.embeddingBackward(s, index, dx, dh);
            s.release(dx);
        }
        s.release(x, n, rstd, dn);
        return dh;
    }
}
