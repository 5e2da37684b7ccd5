package qlora4j.hub;

import java.io.IOException;

/** A model that cannot be had from the hub. The message names it and says what to do. */
public final class HubException extends IOException {
    private static final long serialVersionUID = 1L;

    /** What went wrong. */
    public enum Kind {
        /** There is no such repository, or it is private and the token does not open it. */
        NOT_FOUND,
        /** The repository has no such revision. */
        NO_REVISION,
        /** The repository has no such file, or none that is a model. */
        NO_FILE,
        /** A token is needed, or the one that was sent is not good. */
        UNAUTHORIZED,
        /** The model's terms must be accepted on its page first. */
        GATED,
        /** The network may not be used, and the cache does not have it. */
        OFFLINE,
        /** The server asks to come back later than is sensible to wait. */
        RATE_LIMITED,
        /** The server cannot be reached, or fails again and again. */
        UNREACHABLE,
        /** The server's answer makes no sense. */
        BAD_ANSWER,
        /** A file has another length than the hub says. */
        WRONG_LENGTH,
        /** A file has another checksum than the hub says. */
        WRONG_CHECKSUM,
        /** A name that would lead out of the cache. */
        UNSAFE_NAME
    }

    private final Kind kind;

    HubException(Kind kind, String message) {
        super(message);
        this.kind = kind;
    }

    HubException(Kind kind, String message, Throwable cause) {
        super(message, cause);
        this.kind = kind;
    }

    /** What went wrong. */
    public Kind kind() {
        return kind;
    }
}
