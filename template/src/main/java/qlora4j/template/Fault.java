package qlora4j.template;

import qlora4j.template.TemplateException.Kind;

/** An error raised below the evaluator, which adds the line and turns it into a {@link TemplateException}. */
final class Fault extends RuntimeException {

    private static final long serialVersionUID = 1L;

    final Kind kind;

    Fault(Kind kind, String message) {
        super(message, null, false, false);
        this.kind = kind;
    }

    static Fault type(String message) {
        return new Fault(Kind.TYPE, message);
    }

    static Fault value(String message) {
        return new Fault(Kind.VALUE, message);
    }

    static Fault lookup(String message) {
        return new Fault(Kind.LOOKUP, message);
    }

    static Fault limit(String message) {
        return new Fault(Kind.LIMIT, message);
    }

    static Fault overflow(String message) {
        return new Fault(Kind.OVERFLOW, message);
    }

    static Fault runtime(String message) {
        return new Fault(Kind.RUNTIME, message);
    }
}
