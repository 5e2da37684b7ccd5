package qlora4j.train.data;

import qlora4j.template.Rendered;

/** A model's own chat template. */
@FunctionalInterface
public interface ChatRenderer {
    /**
     * The text of a conversation, special tokens included.
     *
     * @param addGenerationPrompt whether the text ends with the header of an assistant's message that is to be written
     */
    Rendered render(Chat chat, boolean addGenerationPrompt);

    /** Whether the template marks what the assistant says by {@code {% generation %}} blocks. */
    default boolean marksGeneration() {
        return false;
    }

    /** The text of the token that ends an answer, or null where it is not known. */
    default String eosText() {
        return null;
    }
}
