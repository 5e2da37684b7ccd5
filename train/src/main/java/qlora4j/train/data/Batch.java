package qlora4j.train.data;

import java.util.Arrays;
import java.util.List;

/**
 * Rows laid one after the other without padding, N tokens of S samples.
 *
 * @param tokens      [N] the ids
 * @param labels      [N] the token to be predicted there: the next one of the same sample, or
 *                    {@link TokenizedRow#IGNORED} within a prompt and at a sample's end
 * @param cuLengths   [S + 1] where each sample begins in them, and last N
 * @param positions   [N] from 0 in each sample
 * @param sample      [N] the sample's index in the global batch, which the split into micro-batches does not change
 * @param labelTokens how many labels are not ignored
 */
public record Batch(int[] tokens, int[] labels, int[] cuLengths, int[] positions, int[] sample, int labelTokens) {
    /** How many rows it holds. */
    public int samples() {
        return cuLengths.length - 1;
    }

    /**
     * Lays out rows.
     *
     * @param first the index of the first of them in the global batch
     */
    static Batch of(List<TokenizedRow> rows, int first) {
        int[] cuLengths = new int[rows.size() + 1];
        for (int s = 0; s < rows.size(); s++) {
            cuLengths[s + 1] = Math.addExact(cuLengths[s], rows.get(s).length());
        }
        int n = cuLengths[rows.size()];
        int[] tokens = new int[n];
        int[] labels = new int[n];
        int[] positions = new int[n];
        int[] sample = new int[n];
        int labelTokens = 0;
        for (int s = 0; s < rows.size(); s++) {
            TokenizedRow row = rows.get(s);
            int start = cuLengths[s];
            System.arraycopy(row.ids(), 0, tokens, start, row.length());
            Arrays.fill(sample, start, cuLengths[s + 1], first + s);
            for (int i = 0; i < row.length(); i++) {
                labels[start + i] = row.label(i);
                positions[start + i] = i;
            }
            labelTokens += row.labelTokens();
        }
        return new Batch(tokens, labels, cuLengths, positions, sample, labelTokens);
    }
}
