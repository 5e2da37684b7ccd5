package qlora4j.train.data;

/** A model's tokenizer, as far as training needs it. */
@FunctionalInterface
public interface TextEncoder {
    /**
     * Tokens, and the part of the text that each stands for.
     *
     * @param ids    [N]
     * @param starts [N] the index in the text of each token's first {@code char}
     * @param ends   [N] the index after its last; tokens of white space may have no extent
     */
    record Offsets(int[] ids, int[] starts, int[] ends) {
    }

    /**
     * The token ids of a text, never truncated. Special tokens that the text spells out are recognized in either case.
     *
     * @param addSpecialTokens whether the tokenizer adds those that it puts around a text by itself, such as BOS
     */
    int[] encode(String text, boolean addSpecialTokens);

    /** The same ids as {@code encode(text, false)}, with their places; conversations need them. */
    default Offsets encodeWithOffsets(String text) {
        throw new UnsupportedOperationException("this tokenizer does not tell where its tokens stand in a text");
    }
}
