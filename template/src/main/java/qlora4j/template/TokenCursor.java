package qlora4j.template;

import java.util.List;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Token.Type;

/** A place in a list of tokens. */
class TokenCursor {

    /** How deeply a source may nest; it bounds the parser's own recursion. */
    private static final int MAX_NESTING = 200;

    private final List<Token> tokens;
    private int at;
    private int nesting;

    TokenCursor(List<Token> tokens) {
        this.tokens = tokens;
    }

    protected final Token current() {
        return tokens.get(at);
    }

    protected final Token look() {
        return tokens.get(Math.min(at + 1, tokens.size() - 1));
    }

    protected final Token next() {
        Token token = tokens.get(at);
        if (token.type() != Type.EOF) {
            at++;
        }
        return token;
    }

    protected final boolean skipName(String name) {
        return current().isName(name) && next() != null;
    }

    protected final boolean skipOperator(String op) {
        return current().isOperator(op) && next() != null;
    }

    protected final Token expect(Type type, String described) {
        if (current().type() != type) {
            throw unexpected(described);
        }
        return next();
    }

    protected final void expectOperator(String op) {
        if (!skipOperator(op)) {
            throw unexpected("'" + op + "'");
        }
    }

    protected final void expectName(String name) {
        if (!skipName(name)) {
            throw unexpected("'" + name + "'");
        }
    }

    private TemplateException unexpected(String wanted) {
        if (current().type() == Type.EOF) {
            return fail("unexpected end of template, expected " + wanted + ".", current().line());
        }
        return fail("expected token " + wanted + ", got " + Repr.quote(current().describe()), current().line());
    }

    protected final TemplateException fail(String message, int line) {
        return new TemplateException(Kind.SYNTAX, message, line, null);
    }

    protected final void deeper() {
        if (++nesting > MAX_NESTING) {
            throw fail("the template nests deeper than " + MAX_NESTING + " levels", current().line());
        }
    }

    protected final void shallower() {
        nesting--;
    }
}
