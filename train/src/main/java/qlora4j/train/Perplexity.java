package qlora4j.train;

import java.util.ArrayList;
import java.util.List;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Decoder;
import qlora4j.train.data.Batch;
import qlora4j.train.data.TokenizedRow;

/**
 * Perplexity of rows of any length by sliding windows, as Hugging Face's guide "Perplexity of fixed-length models" has
 * it: windows of {@code length} tokens, each {@code stride} tokens behind the one before; a window scores the tokens
 * that no earlier one has scored, and what stands before them in it is their context. A stride of {@code length} is
 * disjoint windows, whose first tokens are not scored; a smaller one gives every token at least {@code length - stride}
 * tokens of context, and costs more.
 *
 * <p>The result is a mean over all scored tokens, each counted once: how they fall into windows and batches does not
 * weigh.
 *
 * @param nll the mean negative log-likelihood of a scored token, in nats
 * @param tokens how many were scored
 */
public record Perplexity(double nll, long tokens) {
    /** {@code exp(nll)}. */
    public double value() {
        return Math.exp(nll);
    }

    /** Scores windows under an adapter or none. */
    public static Perplexity of(Decoder decoder, Adapters adapters, List<Batch> windows) {
        if (windows.isEmpty()) {
            throw new IllegalArgumentException("there is no token to score");
        }
        return new Perplexity(Trainer.meanLoss(decoder, adapters, windows),
                windows.stream().mapToLong(Batch::labelTokens).sum());
    }

    private record Window(int[] tokens, int[] labels, int scored) {
    }

    /**
     * The windows of rows, as batches; windows without a token to score are left out.
     *
     * @param length the most tokens of a window, from 2
     * @param stride how far apart windows begin, 1 to {@code length}
     * @param perBatch windows of a batch
     */
    public static List<Batch> windows(List<TokenizedRow> rows, int length, int stride, int perBatch) {
        if (length < 2) {
            throw new IllegalArgumentException("--max-seq-length " + length + ": must be at least 2");
        }
        if (stride < 1 || stride > length) {
            throw new IllegalArgumentException("--stride " + stride + ": must be between 1 and --max-seq-length "
                    + length);
        }
        List<Window> windows = new ArrayList<>();
        for (TokenizedRow row : rows) {
            int scoredTo = 0;
            for (int begin = 0; scoredTo < row.length(); begin += stride) {
                int end = Math.min(begin + length, row.length());
                Window w = window(row, begin, end, scoredTo);
                if (w.scored > 0) {
                    windows.add(w);
                }
                scoredTo = end;
            }
        }
        List<Batch> batches = new ArrayList<>();
        for (int first = 0; first < windows.size(); first += perBatch) {
            batches.add(batch(windows.subList(first, Math.min(first + perBatch, windows.size()))));
        }
        return batches;
    }

    /** Tokens {@code begin} to {@code end} of a row; those from {@code scoredTo} on are scored, but for the first. */
    private static Window window(TokenizedRow row, int begin, int end, int scoredTo) {
        int[] tokens = java.util.Arrays.copyOfRange(row.ids(), begin, end);
        int[] labels = new int[tokens.length];
        int scored = 0;
        for (int i = 0; i < tokens.length; i++) {
            int target = begin + i + 1;
            labels[i] = target < end && target >= scoredTo ? row.label(begin + i) : TokenizedRow.IGNORED;
            scored += labels[i] == TokenizedRow.IGNORED ? 0 : 1;
        }
        return new Window(tokens, labels, scored);
    }

    private static Batch batch(List<Window> windows) {
        int[] cu = new int[windows.size() + 1];
        for (int i = 0; i < windows.size(); i++) {
            cu[i + 1] = cu[i] + windows.get(i).tokens.length;
        }
        int n = cu[windows.size()];
        int[] tokens = new int[n];
        int[] labels = new int[n];
        int[] positions = new int[n];
        int[] sample = new int[n];
        int scored = 0;
        for (int s = 0; s < windows.size(); s++) {
            Window w = windows.get(s);
            System.arraycopy(w.tokens, 0, tokens, cu[s], w.tokens.length);
            System.arraycopy(w.labels, 0, labels, cu[s], w.tokens.length);
            for (int i = 0; i < w.tokens.length; i++) {
                positions[cu[s] + i] = i;
                sample[cu[s] + i] = s;
            }
            scored += w.scored;
        }
        return new Batch(tokens, labels, cu, positions, sample, scored);
    }
}
