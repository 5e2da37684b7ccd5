package qlora4j.train.data;

/**
 * Data or a template that cannot be used. The message names the file and the line or row, or the flag, and says why.
 */
public final class DataException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public DataException(String message) {
        super(message);
    }

    public DataException(String message, Throwable cause) {
        super(message, cause);
    }
}
