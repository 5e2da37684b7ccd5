package qlora4j.model;

import java.util.Objects;

/**
 * One turn of a conversation.
 *
 * @param role who speaks: system, user, assistant, or what else the model's template knows
 * @param content what is said; data, never read as template code
 */
public record Message(String role, String content) {
    public Message {
        Objects.requireNonNull(role, "role");
        Objects.requireNonNull(content, "content");
    }
}
