package qlora4j.train.data;

/** Which of a row's tokens are learned. A row of one text is learned whole in any case. */
public enum LossOn {
    /** The completion: the output, or the last answer of a conversation. */
    COMPLETION,
    /** All answers of a conversation: TRL's {@code assistant_only_loss}. */
    ASSISTANT,
    /** All tokens: TRL's {@code completion_only_loss=False}. */
    ALL
}
