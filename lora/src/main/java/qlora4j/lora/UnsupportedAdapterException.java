package qlora4j.lora;

import java.io.IOException;

/** An adapter's configuration asks for something that changes its numbers and is not computed here. */
public final class UnsupportedAdapterException extends IOException {
    private final String feature;

    UnsupportedAdapterException(String message, String feature) {
        super(message);
        this.feature = feature;
    }

    /** The field and its value. */
    public String feature() {
        return feature;
    }
}
