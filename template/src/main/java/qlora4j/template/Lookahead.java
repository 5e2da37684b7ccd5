package qlora4j.template;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.Supplier;

/** An iterator over what a source gives until it gives {@link Values#MISSING}; it asks only when it must. */
final class Lookahead implements Iterator<Object> {

    private final Supplier<Object> source;
    private Object next;
    private boolean asked;

    Lookahead(Supplier<Object> source) {
        this.source = source;
    }

    @Override
    public boolean hasNext() {
        if (!asked) {
            next = source.get();
            asked = true;
        }
        return next != Values.MISSING;
    }

    @Override
    public Object next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        asked = false;
        return next;
    }
}
