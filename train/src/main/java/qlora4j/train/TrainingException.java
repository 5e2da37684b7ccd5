package qlora4j.train;

/** A run that cannot go on: a loss or gradient that is not a number, a checkpoint that does not fit. */
public final class TrainingException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public TrainingException(String message) {
        super(message);
    }

    public TrainingException(String message, Throwable cause) {
        super(message, cause);
    }
}
