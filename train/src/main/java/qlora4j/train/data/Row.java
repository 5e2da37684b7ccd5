package qlora4j.train.data;

import java.util.Map;
import java.util.Objects;

/** A row of a data file. */
public sealed interface Row {
    /** Where it stands, for messages: the file, and the line or the row counted from 1. */
    String where();

    /** All of its fields, those that its form does not know included, as JSON values. */
    Map<String, Object> fields();

    /** {@code instruction}, {@code output}, and {@code input}, which is empty where the row has none. */
    record Alpaca(String where, String instruction, String input, String output, Map<String, Object> fields)
            implements
                Row {
        public Alpaca {
            Objects.requireNonNull(where, "where");
            Objects.requireNonNull(instruction, "instruction");
            Objects.requireNonNull(input, "input");
            Objects.requireNonNull(output, "output");
            Objects.requireNonNull(fields, "fields");
        }

        /** Whether there is an input; one of white space is none. */
        public boolean hasInput() {
            return !input.isBlank();
        }
    }

    /** {@code prompt}, which may be empty, and {@code completion}. */
    record PromptCompletion(String where, String prompt, String completion, Map<String, Object> fields)
            implements
                Row {
        public PromptCompletion {
            Objects.requireNonNull(where, "where");
            Objects.requireNonNull(prompt, "prompt");
            Objects.requireNonNull(completion, "completion");
            Objects.requireNonNull(fields, "fields");
        }
    }

    /**
     * {@code messages} or {@code conversations}; or {@code prompt} and {@code completion} that are lists of messages.
     *
     * @param given how many of the messages are the prompt's; -1 where the row does not say
     */
    record Conversation(String where, Chat chat, int given, Map<String, Object> fields) implements Row {
        public Conversation {
            Objects.requireNonNull(where, "where");
            Objects.requireNonNull(chat, "chat");
            Objects.requireNonNull(fields, "fields");
        }
    }

    /** One text, all of which is learned. */
    record Text(String where, String text, Map<String, Object> fields) implements Row {
        public Text {
            Objects.requireNonNull(where, "where");
            Objects.requireNonNull(text, "text");
            Objects.requireNonNull(fields, "fields");
        }
    }
}
