package qlora4j.train.data;

/**
 * A row as token ids: the prompt (BOS first where the tokenizer adds one), the completion, EOS.
 *
 * @param ids          at least two
 * @param promptLength how many of them are the prompt's, BOS included; less than {@code ids.length}
 * @param promptCut    how many of the prompt's tokens were cut away, behind BOS, to make the row fit
 */
public record TokenizedRow(int[] ids, int promptLength, int promptCut) {
    /** The label of a position from which nothing is learned, as in PyTorch's and transformers' losses. */
    public static final int IGNORED = -100;

    public TokenizedRow {
        if (ids.length < 2 || promptLength < 0 || promptLength >= ids.length || promptCut < 0) {
            throw new IllegalArgumentException("a row needs two tokens or more and a completion: " + ids.length
                    + " tokens, a prompt of " + promptLength + ", of which " + promptCut + " were cut");
        }
    }

    public int length() {
        return ids.length;
    }

    /**
     * The token to be predicted at position {@code i}: the next one, where it belongs to the completion or is EOS; else
     * {@link #IGNORED}, as at the last position.
     */
    public int label(int i) {
        int next = i + 1;
        return next >= promptLength && next < ids.length ? ids[next] : IGNORED;
    }

    /** How many positions have a label; at least one. Nothing predicts the first token of a row without a prompt. */
    public int labelTokens() {
        return ids.length - Math.max(promptLength, 1);
    }
}
