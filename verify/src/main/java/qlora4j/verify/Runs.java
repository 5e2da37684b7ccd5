package qlora4j.verify;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.KvCache;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamW;
import qlora4j.optim.Residency;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What a recorded model is put through, with our decoder. Results are host tensors. */
final class Runs {
    /** Clipping, betas, epsilon and weight decay of every recorded training. */
    private static final double CLIP = 0.3;
    private static final AdamHyper HYPER = AdamHyper.defaults(AdamHyper.Formula.TORCH).withWeightDecay(0.01);

    private final OnBackend on;
    private final Decoder decoder;

    Runs(OnBackend on, Decoder decoder) {
        this.on = on;
        this.decoder = decoder;
    }

    Decoder decoder() {
        return decoder;
    }

    /** Logits [N, vocab] of all rows. */
    Tensor logits(TokenBatch batch, Adapters adapters) {
        Stream s = on.stream();
        Tensor logits = s.take(decoder.type(), batch.rows(), decoder.vocab(adapters));
        decoder.logits(s, batch, adapters, null, logits);
        return taken(logits);
    }

    /** The hidden states [N, hidden]: the embedding, each layer's output, the last after the final norm. */
    List<Tensor> hidden(TokenBatch batch, Adapters adapters) {
        Stream s = on.stream();
        List<Tensor> states = new ArrayList<>();
        Tensor logits = s.take(decoder.type(), batch.rows(), decoder.vocab(adapters));
        decoder.logits(s, batch, adapters, (index, h) -> states.add(on.download(h)), logits);
        s.release(logits);
        return states;
    }

    /** Logits [S, vocab] of each sequence's last row, through the cache. */
    Tensor lastLogits(TokenBatch batch, Adapters adapters) {
        Stream s = on.stream();
        try (KvCache cache = new KvCache(on.backend(), decoder.config(), decoder.type(), batch.sequences(),
                batch.maxLength())) {
            Tensor logits = s.take(decoder.type(), batch.sequences(), decoder.vocab(adapters));
            decoder.next(s, batch, adapters, cache, logits);
            return taken(logits);
        }
    }

    private Tensor taken(Tensor device) {
        Tensor host = on.download(device);
        on.stream().release(device);
        return host;
    }

    /**
     * Greedy tokens after a prompt against recorded ones, up to the first position whose two best logits are within
     * {@code margin}: there two correct implementations may part.
     *
     * @param barred tokens that are never taken
     */
    Outcome greedy(int[] prompt, int[] recorded, Adapters adapters, int[] barred, double margin) {
        Stream s = on.stream();
        String limit = "exact to a margin of " + margin;
        try (KvCache cache = new KvCache(on.backend(), decoder.config(), decoder.type(), 1,
                prompt.length + recorded.length)) {
            Tensor logits = s.take(decoder.type(), 1, decoder.vocab(adapters));
            try {
                TokenBatch next = TokenBatch.of(prompt);
                for (int i = 0; i < recorded.length; i++) {
                    decoder.next(s, next, adapters, cache, logits);
                    int[] best = bestTwo(on.download(logits), barred);
                    double gap = best.length == 0 ? Double.NaN : gap(on.download(logits), best);
                    if (gap <= margin) {
                        return new Outcome(true, i + " equal before a near tie", limit);
                    }
                    if (!(gap > margin) || best[0] != recorded[i]) {
                        return new Outcome(false, "token " + i + " is " + (best.length == 0 ? "NaN" : best[0])
                                + ", recorded " + recorded[i], limit);
                    }
                    next = new TokenBatch(new int[]{best[0]}, new int[]{0, 1}, new int[]{prompt.length + i},
                            new int[]{0}, null);
                }
                return new Outcome(recorded.length > 0, recorded.length + " equal", limit);
            } finally {
                s.release(logits);
            }
        }
    }

    private static double gap(Tensor logits, int[] best) {
        return logits.get(best[0]) - logits.get(best[1]);
    }

    /** The likeliest two tokens; none where a logit is NaN. */
    private static int[] bestTwo(Tensor logits, int[] barred) {
        int first = -1;
        int second = -1;
        for (int i = 0; i < logits.size(); i++) {
            int token = i;
            double x = logits.get(i);
            if (Double.isNaN(x)) {
                return new int[0];
            }
            if (Arrays.stream(barred).anyMatch(b -> b == token)) {
                continue;
            }
            if (first < 0 || x > logits.get(first)) {
                second = first;
                first = i;
            } else if (second < 0 || x > logits.get(second)) {
                second = i;
            }
        }
        return new int[]{first, second};
    }

    /** The negative log-likelihood of each labelled row, in order. */
    Tensor nll(TokenBatch batch, Adapters adapters, int labels) {
        Stream s = on.stream();
        Tensor nll = s.take(DType.F32, labels);
        loss(batch, adapters, LossOptions.EVALUATE, labels, nll);
        return taken(nll);
    }

    /** The mean loss; gradients are accumulated where the options want them. */
    double loss(TokenBatch batch, Adapters adapters, LossOptions options, int labels, Tensor nll) {
        Stream s = on.stream();
        Tensor scale = on.backend().allocate(DType.F64.bytes(), MemoryUse.WORKSPACE).tensor(0, DType.F64, 1);
        on.backend().upload(Tensor.of(new double[]{1.0 / labels}, 1), scale);
        Tensor loss = s.take(DType.F64, 1);
        s.zero(loss);
        decoder.loss(s, batch, adapters, options, scale, loss, nll);
        return taken(loss).get(0);
    }

    /** The gradients of the first step by parameter. */
    Map<String, Tensor> gradients(TokenBatch batch, Adapter adapter, int labels) {
        adapter.parameters().zeroGrads(on.stream());
        loss(batch, adapter.use(), new LossOptions(true, false), labels, null);
        Map<String, Tensor> gradients = new LinkedHashMap<>();
        for (ParameterStore.Parameter p : adapter.parameters().all()) {
            gradients.put(p.name(), on.download(p.grad()));
        }
        return gradients;
    }

    /** Losses and gradient norms before clipping, by step. */
    record Training(Tensor losses, Tensor norms) {
    }

    /** A batch of a step and the number of its labels. */
    record Step(TokenBatch batch, int labels) {
    }

    /** Trains an adapter as every recorded training was done. */
    Training train(Adapter adapter, int steps, double learningRate, IntFunction<Step> batchOfStep) {
        Stream s = on.stream();
        Tensor losses = Tensor.zeros(DType.F64, steps);
        Tensor norms = Tensor.zeros(DType.F64, steps);
        try (AdamW adam = new AdamW(on.backend(), adapter.parameters(),
                Map.of(ParameterStore.DEFAULT_GROUP, HYPER), Residency.ALL, null)) {
            for (int i = 0; i < steps; i++) {
                Step step = batchOfStep.apply(i);
                adapter.parameters().zeroGrads(s);
                losses.set(i, loss(step.batch, adapter.use(), new LossOptions(true, true), step.labels, null));
                adam.prepare(learningRate, 1);
                adam.clip(s, CLIP);
                adam.update(s);
                norms.set(i, adam.gradNorm());
            }
        }
        return new Training(losses, norms);
    }
}
