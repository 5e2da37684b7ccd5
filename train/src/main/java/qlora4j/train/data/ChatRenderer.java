package qlora4j.train.data;

import java.util.List;

/** A model's own chat template. */
@FunctionalInterface
public interface ChatRenderer {
    /**
     * The text of a conversation, special tokens included.
     *
     * @param addGenerationPrompt whether the text ends with the header of an assistant's message that is to be written
     */
    String render(List<Message> messages, boolean addGenerationPrompt);
}
