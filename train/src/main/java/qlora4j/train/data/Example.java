package qlora4j.train.data;

import java.util.Objects;

/**
 * A row as the model will read it: it is given the prompt, and trained to write the completion, which follows it
 * without anything between and holds no EOS unless the template writes one.
 */
public record Example(String prompt, String completion) {
    public Example {
        Objects.requireNonNull(prompt, "prompt");
        Objects.requireNonNull(completion, "completion");
    }
}
