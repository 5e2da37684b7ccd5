package qlora4j.train.data;

import java.util.Arrays;

/**
 * A row as token ids, and which of them are learned: for a prompt and a completion, the prompt (BOS first where the
 * tokenizer adds one), the completion, EOS.
 *
 * @param ids       at least two
 * @param runs      [2R] where each run of learned tokens begins and ends, in order, not touching; at least one learned
 *                  token has another before it
 * @param promptCut how many tokens were cut away, behind BOS, to make the row fit
 */
public record TokenizedRow(int[] ids, int[] runs, int promptCut) {
    /** The label of a position from which nothing is learned, as in PyTorch's and transformers' losses. */
    public static final int IGNORED = -100;

    public TokenizedRow {
        boolean ordered = runs.length >= 2 && runs.length % 2 == 0 && runs[0] >= 0;
        for (int i = 1; i < runs.length; i++) {
            ordered &= runs[i] > runs[i - 1];
        }
        if (ids.length < 2 || promptCut < 0 || !ordered || runs[runs.length - 1] > ids.length
                || runs[runs.length - 1] < 2) {
            throw new IllegalArgumentException("a row needs two tokens or more and a completion: " + ids.length
                    + " tokens, learned " + Arrays.toString(runs) + ", of which " + promptCut + " were cut");
        }
    }

    /**
     * A prompt and a completion.
     *
     * @param promptLength how many of the ids are the prompt's, BOS included; less than {@code ids.length}
     */
    public TokenizedRow(int[] ids, int promptLength, int promptCut) {
        this(ids, new int[]{promptLength, ids.length}, promptCut);
    }

    public int length() {
        return ids.length;
    }

    /** How many tokens stand before the first that is learned. */
    public int promptLength() {
        return runs[0];
    }

    /** Whether token {@code i} is learned; the first of a row is not, since nothing stands before it. */
    public boolean learned(int i) {
        if (i < 1 || i >= ids.length) {
            return false;
        }
        int at = Arrays.binarySearch(runs, i);
        int before = at >= 0 ? at + 1 : -at - 1;
        return before % 2 == 1;
    }

    /** The token to be predicted at position {@code i}: the next one, where it is learned; else {@link #IGNORED}. */
    public int label(int i) {
        return learned(i + 1) ? ids[i + 1] : IGNORED;
    }

    /** How many positions have a label; at least one. Nothing predicts the first token of a row. */
    public int labelTokens() {
        int count = 0;
        for (int r = 0; r < runs.length; r += 2) {
            count += runs[r + 1] - Math.max(runs[r], 1);
        }
        return count;
    }
}
