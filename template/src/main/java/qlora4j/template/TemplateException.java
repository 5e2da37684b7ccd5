package qlora4j.template;

/**
 * A template that could not be parsed or rendered. {@link #getMessage()} is the bare message: for a template that
 * called {@code raise_exception} it is the text the template gave, verbatim.
 */
public final class TemplateException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    /** What went wrong, named after the Python or Jinja error of the same case. */
    public enum Kind {
        /** The source is not a template: bad syntax, unknown tag, unknown filter or test. */
        SYNTAX,
        /** The template called {@code raise_exception}. */
        RAISED,
        /** An undefined value was used as if it had one. */
        UNDEFINED,
        /** A private, mutating or otherwise forbidden attribute was used. */
        SECURITY,
        /** A bound of {@link Limits} was reached. */
        LIMIT,
        /** An operation does not exist for the types it was given. */
        TYPE,
        /** An operation does not exist for the value it was given. */
        VALUE,
        /** An index or key that a method needed is not there. */
        LOOKUP,
        /** A division by zero. */
        ZERO_DIVISION,
        /** A number or a range too large to represent. */
        OVERFLOW,
        /** Another error of the template at run time. */
        RUNTIME,
        /** The context holds an object that is no string, number, boolean, null, list or map. */
        CONTEXT
    }

    private final Kind kind;
    private final int line;

    TemplateException(Kind kind, String message, int line, Throwable cause) {
        super(message, cause);
        this.kind = kind;
        this.line = line;
    }

    /**
     * What went wrong.
     *
     * @return the kind of error
     */
    public Kind kind() {
        return kind;
    }

    /**
     * Where it went wrong.
     *
     * @return the line of the template, from 1; 0 when the error is in the context and not in the template
     */
    public int line() {
        return line;
    }

    @Override
    public String toString() {
        return "TemplateException (" + kind + (line > 0 ? ", line " + line : "") + "): " + getMessage();
    }
}
