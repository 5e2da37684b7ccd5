package qlora4j.verify.vectors;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/**
 * Cross-entropy of next tokens with ignored labels, and its gradient: section 7. Labels are those of the tokens
 * themselves, as data sets have them; that a position predicts the next one is part of the operation.
 */
final class LossOperation implements Operation {
    private static final int BATCH = 2;
    private static final int LENGTH = 7;
    private static final int VOCABULARY = 11;
    private static final int IGNORED = -100;
    /** Logits of a few units: exponential and logarithm within a few ulp, sums of 11. */
    private static final double LIMIT = 2e-6;

    private final Tensor logits = Inputs.normal(DType.F32, 20, 2, BATCH, LENGTH, VOCABULARY);
    private final int[] labels = Inputs.ints(21, VOCABULARY, BATCH * LENGTH);

    LossOperation() {
        // The rows have 4 and 2 labels: prompts of different lengths.
        for (int row = 0; row < BATCH; row++) {
            for (int t = 0; t < LENGTH - 4 + 2 * row; t++) {
                labels[row * LENGTH + t] = IGNORED;
            }
        }
    }

    @Override
    public String name() {
        return "loss";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of("logits", logits, "labels", Tensor.of(labels, BATCH, LENGTH));
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("nll", LIMIT), new Output("mean", LIMIT).after("nll"),
                new Output("dlogits", LIMIT).after("nll", "mean"));
    }

    /** The label that each position is compared with. */
    private int[] targets(boolean shifted) {
        int[] targets = new int[labels.length];
        for (int i = 0; i < targets.length; i++) {
            boolean last = i % LENGTH == LENGTH - 1;
            targets[i] = !shifted ? labels[i] : last ? IGNORED : labels[i + 1];
        }
        return targets;
    }

    private static int count(int[] targets) {
        int n = 0;
        for (int t : targets) {
            n += t == IGNORED ? 0 : 1;
        }
        return n;
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        int[] targets = targets(true);
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor device = on.copy(logits.view(labels.length, VOCABULARY));
            Tensor scale = on.copy(Tensor.of(new float[]{(float) (1.0 / count(targets))}, 1));
            Tensor loss = on.copy(Tensor.zeros(DType.F64, 1));
            Tensor nll = on.filled(DType.F32, new long[]{labels.length}, t -> DecoderOps.crossEntropy(s, device,
                    on.copy(Tensor.of(targets, targets.length)), scale, t, loss, true));
            out.put("nll", nll.view(BATCH, LENGTH));
            out.put("mean", Tensor.of(new float[]{(float) on.download(loss).get(0)}, 1));
            out.put("dlogits", on.download(device).view(logits.shape()));
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        int[] targets = targets(fault != Fault.LABELS_UNSHIFTED);
        double[] weight = weights(targets, fault);
        Tensor nll = Tensor.zeros(DType.F32, BATCH, LENGTH);
        Tensor gradient = Tensor.zeros(DType.F32, logits.shape());
        double mean = 0;
        for (int i = 0; i < targets.length; i++) {
            if (targets[i] == IGNORED) {
                continue;
            }
            long row = (long) i * VOCABULARY;
            double sum = 0;
            for (int v = 0; v < VOCABULARY; v++) {
                sum += StrictMath.exp(logits.get(row + v));
            }
            double lse = StrictMath.log(sum);
            nll.set(i, lse - logits.get(row + targets[i]));
            mean += weight[i] * (lse - logits.get(row + targets[i]));
            for (int v = 0; v < VOCABULARY; v++) {
                double p = StrictMath.exp(logits.get(row + v) - lse);
                gradient.set(row + v, weight[i] * (v == targets[i] ? p - 1 : p));
            }
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("nll", nll);
        out.put("mean", Tensor.of(new float[]{(float) mean}, 1));
        out.put("dlogits", gradient);
        return out;
    }

    /** What each position's nll counts in the mean. */
    private static double[] weights(int[] targets, Fault fault) {
        double[] weight = new double[targets.length];
        for (int i = 0; i < weight.length; i++) {
            int row = i / LENGTH;
            int[] own = Arrays.copyOfRange(targets, row * LENGTH, (row + 1) * LENGTH);
            weight[i] = switch (fault) {
                case MEAN_OVER_ALL_TOKENS -> 1.0 / targets.length;
                case MEAN_OF_ROW_MEANS -> 1.0 / (BATCH * count(own));
                case SUM_INSTEAD_OF_MEAN -> 1;
                case null, default -> 1.0 / count(targets);
            };
        }
        return weight;
    }
}
