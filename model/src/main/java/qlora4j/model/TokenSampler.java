package qlora4j.model;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.Arrays;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/**
 * Chooses tokens from rows of logits, in double: repetition penalty, then the largest, or temperature, top-k, top-p and
 * a draw, in transformers' order. Shared by the scalar and cpu backends: a row of logits is read once a token.
 * Its memory is kept between calls, which take turns.
 */
final class TokenSampler {
    /** Tells these draws from the other uses of a seed. */
    static final int PHILOX_PURPOSE = 0x53414d50;

    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private final int[] words = new int[4];
    private float[] raw = new float[0];
    private double[] scores = new double[0];
    private double[] sorted = new double[0];

    /** See {@link DecoderKernels#sample}. */
    synchronized void sample(SamplingConfig config, Tensor logits, Tensor history, Tensor lengths, Tensor tokens) {
        int n = logits.cols();
        if (scores.length < n) {
            scores = new double[n];
            sorted = new double[n];
        }
        for (int row = 0; row < logits.rows(); row++) {
            if (!config.doSample() && config.repetitionPenalty() == 1 && logits.dtype() == DType.F32) {
                tokens.set(row, largest(logits, row, n));
                continue;
            }
            int length = ScalarDecoder.integer(lengths, row);
            read(logits, row, n);
            penalize(config.repetitionPenalty(), history, row, length, n);
            tokens.set(row, config.doSample() ? draw(config, row, length, n) : largest(n));
        }
    }

    /** {@link #largest(int)} of a row that nothing changes. */
    private int largest(Tensor logits, int row, int n) {
        if (raw.length < n) {
            raw = new float[n];
        }
        MemorySegment.copy(logits.data(), FLOAT, DType.F32.bytes((long) row * n), raw, 0, n);
        int best = 0;
        float most = Float.NEGATIVE_INFINITY;
        for (int i = 0; i < n; i++) {
            float x = raw[i];
            if (!(x <= most)) {
                if (Float.isNaN(x)) {
                    throw DecoderFaults.notANumber(row, i);
                }
                best = i;
                most = x;
            }
        }
        return best;
    }

    private void read(Tensor logits, int row, int n) {
        for (int i = 0; i < n; i++) {
            scores[i] = logits.get((long) row * n + i);
            if (Double.isNaN(scores[i])) {
                throw DecoderFaults.notANumber(row, i);
            }
        }
    }

    /** Divides the positive and multiplies the negative scores of the tokens so far, each once however often it came. */
    private void penalize(double penalty, Tensor history, int row, int length, int n) {
        if (penalty == 1) {
            return;
        }
        System.arraycopy(scores, 0, sorted, 0, n);
        for (int i = 0; i < length; i++) {
            int token = ScalarDecoder.integer(history, (long) row * history.cols() + i);
            double score = sorted[token];
            scores[token] = score > 0 ? score / penalty : score * penalty;
        }
    }

    /** The token of the largest score, the first among equals. */
    private int largest(int n) {
        int best = 0;
        for (int i = 1; i < n; i++) {
            if (scores[i] > scores[best]) {
                best = i;
            }
        }
        return best;
    }

    private int draw(SamplingConfig config, int row, int length, int n) {
        double max = scores[largest(n)];
        if (Double.isInfinite(max)) {
            throw DecoderFaults.noDistribution(row, max);
        }
        for (int i = 0; i < n; i++) {
            scores[i] = (scores[i] - max) / config.temperature();
        }
        keepTopK(config.topK(), n);
        double total = 0;
        for (int i = 0; i < n; i++) {
            scores[i] = StrictMath.exp(scores[i]);
            total += scores[i];
        }
        if (config.topP() < 1) {
            total = keepTopP(config.topP() * total, n);
        }
        Philox.words(config.seed(), length, 0, row, PHILOX_PURPOSE, words);
        return find(unit(words[0], words[1]) * total, n);
    }

    /** Drops what is smaller than the k-th largest score; equals of that stay, as in transformers. */
    private void keepTopK(int k, int n) {
        if (k == 0 || k >= n) {
            return;
        }
        System.arraycopy(scores, 0, sorted, 0, n);
        Arrays.sort(sorted, 0, n);
        double least = sorted[n - k];
        for (int i = 0; i < n; i++) {
            if (scores[i] < least) {
                scores[i] = Double.NEGATIVE_INFINITY;
            }
        }
    }

    /**
     * Drops each probability that those larger than it leave no room for below {@code mass}; among equals the first
     * tokens stay. At least one stays.
     *
     * @return the sum of what is kept
     */
    private double keepTopP(double mass, int n) {
        System.arraycopy(scores, 0, sorted, 0, n);
        Arrays.sort(sorted, 0, n);
        double above = 0;
        int kept = 0;
        while (kept == 0 || kept < n && above < mass) {
            kept++;
            above += sorted[n - kept];
        }
        double least = sorted[n - kept];
        int equals = 0;
        for (int i = n - kept; i < n && sorted[i] == least; i++) {
            equals++;
        }
        double total = 0;
        for (int i = 0; i < n; i++) {
            boolean keep = scores[i] > least || scores[i] == least && equals-- > 0;
            scores[i] = keep ? scores[i] : 0;
            total += scores[i];
        }
        return total;
    }

    /** The first token up to which the weights sum to more than {@code target}. */
    private int find(double target, int n) {
        double sum = 0;
        int last = 0;
        for (int i = 0; i < n; i++) {
            if (scores[i] > 0) {
                sum += scores[i];
                last = i;
                if (sum > target) {
                    return i;
                }
            }
        }
        return last;
    }

    /** A double in [0, 1) of 53 random bits. */
    private static double unit(int high, int low) {
        return (((high & 0xffffffffL) << 32 | low & 0xffffffffL) >>> 11) * 0x1p-53;
    }
}
