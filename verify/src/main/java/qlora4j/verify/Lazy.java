package qlora4j.verify;

import java.io.IOException;
import java.util.function.Consumer;

/** A result that several checks share, computed when the first of them asks. One that failed is tried again. */
final class Lazy<T> {
    /** The computation. */
    interface Source<T> {
        T get() throws IOException;
    }

    private final Source<T> source;
    private T value;

    Lazy(Source<T> source) {
        this.source = source;
    }

    T get() throws IOException {
        if (value == null) {
            value = source.get();
        }
        return value;
    }

    /** Hands the result on where there is one. */
    void ifComputed(Consumer<T> action) {
        if (value != null) {
            action.accept(value);
        }
    }
}
