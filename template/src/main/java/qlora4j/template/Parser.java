package qlora4j.template;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.function.Supplier;
import qlora4j.template.Stmt.Signature;
import qlora4j.template.Stmt.Target;
import qlora4j.template.Token.Type;

/** Reads the statements of a template. */
final class Parser extends ExpressionParser {

    private static final Signature NO_SIGNATURE = new Signature(List.of(), List.of(), false, false, false);
    private static final Set<String> NEEDS_LOADER = Set.of("extends", "include", "import", "from");

    private int loops;

    private Parser(List<Token> tokens) {
        super(tokens);
    }

    static List<Stmt> parse(String source) {
        Parser parser = new Parser(Lexer.tokens(source));
        List<Stmt> body = parser.statements(Set.of());
        parser.checkNames();
        return body;
    }

    /** Statements up to a tag with one of these names, which becomes the current token. */
    private List<Stmt> statements(Set<String> ends) {
        deeper();
        List<Stmt> body = new ArrayList<>();
        while (true) {
            Token token = next();
            switch (token.type()) {
                case DATA -> body.add(new Stmt.Text(token.line(), token.text()));
                case PRINT_BEGIN -> {
                    body.add(new Stmt.Print(token.line(), tuple(true, null, false)));
                    expect(Type.PRINT_END, "'end of print statement'");
                }
                case TAG_BEGIN -> {
                    if (current().type() == Type.NAME && ends.contains(current().text())) {
                        shallower();
                        return List.copyOf(body);
                    }
                    statement(body, ends);
                    endTag();
                }
                default -> {
                    if (!ends.isEmpty()) {
                        throw fail(
                                "Unexpected end of template. Jinja was looking for the following tags: " + quoted(ends)
                                        + ".",
                                token.line());
                    }
                    shallower();
                    return List.copyOf(body);
                }
            }
        }
    }

    private static String quoted(Set<String> names) {
        return String.join(" or ", names.stream().sorted().map(Repr::quote).toList());
    }

    private void endTag() {
        expect(Type.TAG_END, "'end of statement block'");
    }

    /** The body of the tag whose head was just read, and its end tag. */
    private List<Stmt> body(String end) {
        List<Stmt> body = bodyUpTo(end);
        next();
        return body;
    }

    private List<Stmt> bodyUpTo(String... ends) {
        skipOperator(":");
        endTag();
        return statements(Set.of(ends));
    }

    /** Reads a part that Jinja compiles as a frame of its own: unknown names in it fail at once again. */
    private <T> T frame(Supplier<T> part) {
        boolean outer = soft;
        soft = false;
        T result = part.get();
        soft = outer;
        return result;
    }

    /** As {@link #frame}, for a part that becomes a function: break and continue do not reach out of it. */
    private <T> T function(Supplier<T> part) {
        int outer = loops;
        loops = 0;
        T result = frame(part);
        loops = outer;
        return result;
    }

    private void statement(List<Stmt> out, Set<String> ends) {
        Token tag = next();
        int line = tag.line();
        if (tag.type() != Type.NAME) {
            throw fail("tag name expected", line);
        }
        switch (tag.text()) {
            case "print" -> print(out);
            case "for" -> out.add(loop(line));
            case "if" -> out.add(branches(line));
            case "set" -> out.add(set(line));
            case "with" -> out.add(with(line));
            case "macro" -> out.add(macro(line));
            case "call" -> out.add(callBlock(line));
            case "filter" ->
                out.add(frame(() -> new Stmt.FilterBlock(line, (Expr.Filter) filters(null, true), body("endfilter"))));
            case "block" -> out.add(block(line));
            case "autoescape" -> out.add(new Stmt.Autoescape(line, expression(), frame(() -> body("endautoescape"))));
            case "generation" -> out.add(new Stmt.Generation(line, function(() -> body("endgeneration"))));
            case "break", "continue" -> {
                if (loops == 0) {
                    throw fail(tag.text().equals("break") ? "'break' outside loop" : "'continue' not properly in loop",
                            line);
                }
                out.add(tag.text().equals("break") ? new Stmt.Break(line) : new Stmt.Continue(line));
            }
            default -> {
                if (NEEDS_LOADER.contains(tag.text())) {
                    throw fail("the tag " + Repr.quote(tag.text())
                            + " needs other templates, and a chat template has none", line);
                }
                throw fail("Encountered unknown tag " + Repr.quote(tag.text()) + "."
                        + (ends.isEmpty() ? "" : " Jinja was looking for the following tags: " + quoted(ends) + "."),
                        line);
            }
        }
    }

    private void print(List<Stmt> out) {
        boolean first = true;
        while (current().type() != Type.TAG_END) {
            if (!first) {
                expectOperator(",");
            }
            first = false;
            out.add(new Stmt.Print(current().line(), expression()));
        }
    }

    private Stmt loop(int line) {
        Target target = target("in", false);
        expectName("in");
        Expr iterable = tuple(false, "recursive", false);
        Expr filter = skipName("if") ? frame(this::expression) : null;
        boolean recursive = skipName("recursive");
        loops++;
        List<Stmt> body = frame(() -> bodyUpTo("endfor", "else"));
        loops--;
        List<Stmt> otherwise = next().text().equals("else") ? frame(() -> body("endfor")) : List.of();
        return new Stmt.For(line, target, iterable, filter, recursive, body, otherwise);
    }

    private Stmt branches(int line) {
        boolean outer = soft;
        soft = true;
        List<Stmt.Branch> branches = new ArrayList<>();
        List<Stmt> otherwise = List.of();
        String end;
        do {
            Expr test = tuple(false, null, false);
            branches.add(new Stmt.Branch(test, bodyUpTo("elif", "else", "endif")));
            end = next().text();
        } while (end.equals("elif"));
        if (end.equals("else")) {
            otherwise = body("endif");
        }
        soft = outer;
        return new Stmt.If(line, List.copyOf(branches), otherwise);
    }

    private Stmt set(int line) {
        Target target = target(null, true);
        if (skipOperator("=")) {
            return new Stmt.Set(line, target, tuple(true, null, false));
        }
        return frame(() -> {
            Expr.Filter filter = current().isOperator("|") ? (Expr.Filter) filters(null, false) : null;
            return new Stmt.SetBlock(line, target, filter, body("endset"));
        });
    }

    private Stmt with(int line) {
        List<Target> targets = new ArrayList<>();
        List<Expr> values = new ArrayList<>();
        while (current().type() != Type.TAG_END && !current().isOperator(":")) {
            if (!targets.isEmpty()) {
                expectOperator(",");
            }
            targets.add(target("=", false));
            expectOperator("=");
            values.add(expression());
        }
        return new Stmt.With(line, List.copyOf(targets), List.copyOf(values), frame(() -> body("endwith")));
    }

    private Stmt block(int line) {
        String name = expect(Type.NAME, "'name'").text();
        boolean scoped = skipName("scoped");
        skipName("required");
        List<Stmt> body = function(() -> body("endblock"));
        skipName(name);
        return new Stmt.Block(line, name, scoped, body);
    }

    private Stmt macro(int line) {
        String name = plainName();
        return function(() -> {
            boolean[] outer = clearReads();
            Signature signature = signature();
            List<Stmt> body = body("endmacro");
            Signature full =
                    new Signature(signature.names(), signature.defaults(), readsVarargs, readsKwargs, readsCaller);
            restoreReads(outer);
            return new Stmt.MacroDefinition(line, name, full, body);
        });
    }

    private Stmt callBlock(int line) {
        boolean[] outer = clearReads();
        Signature signature = current().isOperator("(") ? signature() : NO_SIGNATURE;
        restoreReads(outer);
        if (!(expression() instanceof Expr.Call call)) {
            throw fail("expected call", line);
        }
        boolean[] around = clearReads();
        List<Stmt> body = function(() -> body("endcall"));
        Signature full = new Signature(signature.names(), signature.defaults(), readsVarargs, readsKwargs, readsCaller);
        restoreReads(around);
        return new Stmt.CallBlock(line, full, call, body);
    }

    private boolean[] clearReads() {
        boolean[] reads = {readsVarargs, readsKwargs, readsCaller};
        readsVarargs = false;
        readsKwargs = false;
        readsCaller = false;
        return reads;
    }

    private void restoreReads(boolean[] reads) {
        readsVarargs |= reads[0];
        readsKwargs |= reads[1];
        readsCaller |= reads[2];
    }

    private Signature signature() {
        expectOperator("(");
        List<String> names = new ArrayList<>();
        List<Expr> defaults = new ArrayList<>();
        while (!current().isOperator(")")) {
            if (!names.isEmpty()) {
                expectOperator(",");
            }
            int line = current().line();
            String name = plainName();
            if (names.contains(name)) {
                throw fail("duplicate argument " + Repr.quote(name) + " in a macro's parameters", line);
            }
            names.add(name);
            if (skipOperator("=")) {
                defaults.add(expression());
            } else if (!defaults.isEmpty()) {
                throw fail("non-default argument follows default argument", line);
            }
        }
        next();
        return new Signature(List.copyOf(names), List.copyOf(defaults), false, false, false);
    }

    private String plainName() {
        Token name = expect(Type.NAME, "'name'");
        if (isConstant(name.text())) {
            throw fail("can't assign to 'const'", name.line());
        }
        return name.text();
    }

    /** One target or several separated by commas, up to this name or operator or the tag's end. */
    private Target target(String end, boolean namespaces) {
        int line = current().line();
        List<Target> items = new ArrayList<>();
        boolean isTuple = false;
        while (!atTupleEnd(end) && !current().isOperator("=")) {
            items.add(singleTarget(namespaces));
            if ("=".equals(end) || !skipOperator(",")) {
                break;
            }
            isTuple = true;
        }
        if (items.isEmpty() && !isTuple) {
            throw fail("Expected an expression, got " + Repr.quote(current().describe()), line);
        }
        return isTuple ? new Stmt.TupleTarget(line, List.copyOf(items)) : items.getFirst();
    }

    private Target singleTarget(boolean namespaces) {
        int line = current().line();
        if (skipOperator("(")) {
            deeper();
            Target inner = target(null, false);
            shallower();
            expectOperator(")");
            return inner;
        }
        if (current().type() != Type.NAME) {
            throw fail("can't assign to " + Repr.quote(current().describe()), line);
        }
        Token name = next();
        if (namespaces && current().isOperator(".")) {
            next();
            return new Stmt.NamespaceTarget(line, name.text(), expect(Type.NAME, "'name'").text());
        }
        if (isConstant(name.text())) {
            throw fail("can't assign to 'const'", line);
        }
        return new Stmt.NameTarget(name.text());
    }
}
