package qlora4j.model;

import java.util.Arrays;

/**
 * Sequences of tokens one after another, without padding: sequence s has rows {@code cuLengths[s]} to
 * {@code cuLengths[s + 1]}.
 *
 * @param tokens [N]
 * @param cuLengths [S + 1], from 0 to N
 * @param positions [N] each row's position in its sequence
 * @param samples [N] each row's sample in the global batch, for dropout
 * @param labels [N] the token to predict at each row (shifted already), {@link #IGNORED} where none; null when the
 *         batch is not scored
 */
public record TokenBatch(int[] tokens, int[] cuLengths, int[] positions, int[] samples, int[] labels) {
    /** The label of rows that are not scored. */
    public static final int IGNORED = -100;

    public TokenBatch {
        int n = tokens.length;
        if (n == 0 || cuLengths.length < 2 || cuLengths[0] != 0 || cuLengths[cuLengths.length - 1] != n
                || positions.length != n || samples.length != n || labels != null && labels.length != n) {
            throw new IllegalArgumentException("a batch of " + n + " tokens with cumulative lengths "
                    + Arrays.toString(cuLengths));
        }
        for (int i = 1; i < cuLengths.length; i++) {
            if (cuLengths[i] <= cuLengths[i - 1]) {
                throw new IllegalArgumentException("sequence " + (i - 1) + " of a batch is empty");
            }
        }
    }

    /** Sequences without labels, sample numbers and positions from 0. */
    public static TokenBatch of(int[]... sequences) {
        int[] cu = new int[sequences.length + 1];
        for (int i = 0; i < sequences.length; i++) {
            cu[i + 1] = cu[i] + sequences[i].length;
        }
        int[] tokens = new int[cu[sequences.length]];
        int[] positions = new int[tokens.length];
        int[] samples = new int[tokens.length];
        for (int s = 0; s < sequences.length; s++) {
            for (int i = 0; i < sequences[s].length; i++) {
                tokens[cu[s] + i] = sequences[s][i];
                positions[cu[s] + i] = i;
                samples[cu[s] + i] = s;
            }
        }
        return new TokenBatch(tokens, cu, positions, samples, null);
    }

    /** Further tokens of sequences whose first {@code done} ones, a number a sequence, are in a cache. */
    static TokenBatch continuing(int[][] sequences, int[] done) {
        TokenBatch b = of(sequences);
        for (int i = 0; i < b.positions.length; i++) {
            b.positions[i] += done[b.samples[i]];
        }
        return b;
    }

    /** A batch of the largest shape a job may have, for planning: the tokens mean nothing. */
    public static TokenBatch largest(int sequences, int length) {
        int[][] s = new int[sequences][length];
        TokenBatch b = of(s);
        int[] labels = new int[b.tokens.length];
        return new TokenBatch(b.tokens, b.cuLengths, b.positions, b.samples, labels);
    }

    /** The same rows with labels. */
    public TokenBatch withLabels(int[] newLabels) {
        return new TokenBatch(tokens, cuLengths, positions, samples, newLabels);
    }

    public int rows() {
        return tokens.length;
    }

    public int sequences() {
        return cuLengths.length - 1;
    }

    /** The longest sequence. */
    public int maxLength() {
        int most = 0;
        for (int i = 1; i < cuLengths.length; i++) {
            most = Math.max(most, cuLengths[i] - cuLengths[i - 1]);
        }
        return most;
    }

    /** The rows that have a label. */
    int[] labelRows() {
        int[] rows = new int[tokens.length];
        int k = 0;
        for (int i = 0; i < tokens.length; i++) {
            if (labels[i] != IGNORED) {
                rows[k++] = i;
            }
        }
        return Arrays.copyOf(rows, k);
    }
}
