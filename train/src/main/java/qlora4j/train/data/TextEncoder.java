package qlora4j.train.data;

/** A model's tokenizer, as far as training needs it. */
@FunctionalInterface
public interface TextEncoder {
    /**
     * The token ids of a text, never truncated. Special tokens that the text spells out are recognized in either case.
     *
     * @param addSpecialTokens whether the tokenizer adds those that it puts around a text by itself, such as BOS
     */
    int[] encode(String text, boolean addSpecialTokens);
}
