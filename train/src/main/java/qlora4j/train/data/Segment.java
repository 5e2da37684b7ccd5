package qlora4j.train.data;

import java.util.Objects;

/**
 * A stretch of an example's text.
 *
 * @param role    whose it is: a message's role, or {@code prompt}, {@code completion} or {@code text}
 * @param field   the column or part of a message that it came from, or null for text of the template
 * @param trained whether the model learns to write it
 */
public record Segment(String text, String role, String field, boolean trained) {
    static final String PROMPT = "prompt";
    static final String COMPLETION = "completion";

    public Segment {
        Objects.requireNonNull(text, "text");
        Objects.requireNonNull(role, "role");
    }

    /** Text of a template, before what is learned. */
    static Segment template(String text) {
        return new Segment(text, PROMPT, null, false);
    }

    /** A column's value, before what is learned. */
    static Segment given(String field, String value) {
        return new Segment(value, PROMPT, field, false);
    }

    /** A column's value, which is learned. */
    static Segment learned(String field, String value) {
        return new Segment(value, COMPLETION, field, true);
    }
}
