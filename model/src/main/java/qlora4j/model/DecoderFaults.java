package qlora4j.model;

/** The errors of operations that find something wrong in their data, in the same words on every backend. */
public final class DecoderFaults {
    private DecoderFaults() {
    }

    /** A token that names no row of the embedding. */
    public static IllegalArgumentException token(long row, int id, long rows) {
        return new IllegalArgumentException("token id " + id + " at row " + row + ": the embedding has " + rows
                + " rows; the tokenizer does not belong to this model");
    }

    /** A position beyond the rotation table. */
    public static IllegalArgumentException position(long row, int position, long positions) {
        return new IllegalArgumentException("position " + position + " of row " + row + ": the rotation table has "
                + positions + " positions; the sequence is too long");
    }

    /** A label that is neither a token nor the mark of a row that is not trained. */
    public static IllegalArgumentException label(long row, int label, long vocabulary) {
        return new IllegalArgumentException("label " + label + " of row " + row + ": must be "
                + ScalarDecoder.IGNORED + " (not trained) or 0 to " + (vocabulary - 1));
    }

    /** A logit that is not a number, where a token is to be chosen. */
    public static IllegalStateException notANumber(long row, int token) {
        return new IllegalStateException("the logits of row " + row + " are NaN at token " + token
                + ": no next token can be chosen; the weights or the adapter hold NaN, or the compute type overflows");
    }

    /** Logits whose largest is infinite, where a token is to be drawn. */
    public static IllegalStateException noDistribution(long row, double largest) {
        return new IllegalStateException("the largest logit of row " + row + " is " + largest
                + ": there is no distribution to draw from");
    }
}
