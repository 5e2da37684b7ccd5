package qlora4j.tensor;

/** A device has no room for what a job needs; the message says what was asked, what is free, what was predicted. */
public final class DeviceMemoryException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public DeviceMemoryException(String message) {
        super(message);
    }
}
