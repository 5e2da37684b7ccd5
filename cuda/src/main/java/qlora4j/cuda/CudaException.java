package qlora4j.cuda;

/** A call of the CUDA driver failed. */
public final class CudaException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final int code;

    CudaException(String message, int code) {
        super(message);
        this.code = code;
    }

    /** The driver's CUresult. */
    public int code() {
        return code;
    }
}
