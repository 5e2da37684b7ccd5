package qlora4j.train.data;

import java.util.Objects;

/** One message of a conversation: who speaks ({@code user}, {@code assistant}, {@code system}) and what. */
public record Message(String role, String content) {
    public Message {
        Objects.requireNonNull(role, "role");
        Objects.requireNonNull(content, "content");
    }

    public static Message user(String content) {
        return new Message("user", content);
    }

    public static Message assistant(String content) {
        return new Message("assistant", content);
    }
}
