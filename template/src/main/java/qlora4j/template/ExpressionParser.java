package qlora4j.template;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import qlora4j.template.Token.Type;

/** Reads expressions with Jinja's precedences. */
class ExpressionParser extends TokenCursor {

    private static final Set<String> COMPARISONS = Set.of("==", "!=", "<", "<=", ">", ">=");
    private static final Set<String> CONSTANTS = Set.of("true", "false", "none", "True", "False", "None");

    private record Unknown(String message, int line) {}

    /** True inside an if: there an unknown filter or test fails only when it is reached. */
    protected boolean soft;
    /** Which of the special names of macros were read since the flags were last cleared. */
    protected boolean readsVarargs;
    protected boolean readsKwargs;
    protected boolean readsCaller;
    private final List<Unknown> unknown = new ArrayList<>();

    ExpressionParser(List<Token> tokens) {
        super(tokens);
    }

    /** Fails if a filter or test that the template needs unconditionally does not exist. */
    protected final void checkNames() {
        if (!unknown.isEmpty()) {
            throw fail(unknown.getFirst().message(), unknown.getFirst().line());
        }
    }

    protected final boolean atTupleEnd(String endName) {
        Token token = current();
        return token.type() == Type.PRINT_END || token.type() == Type.TAG_END || token.isOperator(")")
                || endName != null && token.isName(endName);
    }

    /** Expressions separated by commas: one of them, or a tuple. */
    protected final Expr tuple(boolean conditional, String endName, boolean parenthesised) {
        int line = current().line();
        List<Expr> items = new ArrayList<>();
        boolean isTuple = false;
        while (!atTupleEnd(endName)) {
            items.add(conditional ? expression() : withoutConditional());
            if (!skipOperator(",")) {
                break;
            }
            isTuple = true;
        }
        if (!isTuple) {
            if (!items.isEmpty()) {
                return items.getFirst();
            }
            if (!parenthesised) {
                throw fail("Expected an expression, got " + Repr.quote(current().describe()), line);
            }
        }
        return new Expr.TupleLiteral(line, List.copyOf(items));
    }

    private Expr withoutConditional() {
        deeper();
        Expr or = or();
        shallower();
        return or;
    }

    protected final Expr expression() {
        deeper();
        int line = current().line();
        int known = unknown.size();
        Expr then = or();
        while (skipName("if")) {
            Expr test = or();
            Expr otherwise = skipName("else") ? expression() : null;
            then = new Expr.Conditional(line, test, then, otherwise);
            unknown.subList(known, unknown.size()).clear();
            line = current().line();
        }
        shallower();
        return then;
    }

    private Expr or() {
        Expr left = and();
        while (current().isName("or")) {
            int line = next().line();
            left = new Expr.Or(line, left, and());
        }
        return left;
    }

    private Expr and() {
        Expr left = not();
        while (current().isName("and")) {
            int line = next().line();
            left = new Expr.And(line, left, not());
        }
        return left;
    }

    private Expr not() {
        if (current().isName("not")) {
            int line = next().line();
            deeper();
            Expr operand = not();
            shallower();
            return new Expr.Not(line, operand);
        }
        return compare();
    }

    private Expr compare() {
        int line = current().line();
        Expr first = sum();
        List<String> ops = new ArrayList<>();
        List<Expr> operands = new ArrayList<>();
        while (true) {
            if (current().type() == Type.OPERATOR && COMPARISONS.contains(current().text())) {
                ops.add(next().text());
            } else if (skipName("in")) {
                ops.add("in");
            } else if (current().isName("not") && look().isName("in")) {
                next();
                next();
                ops.add("not in");
            } else {
                break;
            }
            operands.add(sum());
        }
        return ops.isEmpty() ? first : new Expr.Compare(line, first, List.copyOf(ops), List.copyOf(operands));
    }

    private Expr sum() {
        Expr left = concat();
        while (current().isOperator("+") || current().isOperator("-")) {
            Token op = next();
            left = new Expr.Binary(op.line(), op.text(), left, concat());
        }
        return left;
    }

    private Expr concat() {
        int line = current().line();
        Expr first = product();
        if (!current().isOperator("~")) {
            return first;
        }
        List<Expr> parts = new ArrayList<>(List.of(first));
        while (skipOperator("~")) {
            parts.add(product());
        }
        return new Expr.Concat(line, List.copyOf(parts));
    }

    private Expr product() {
        Expr left = power();
        while (current().type() == Type.OPERATOR && Set.of("*", "/", "//", "%").contains(current().text())) {
            Token op = next();
            left = new Expr.Binary(op.line(), op.text(), left, power());
        }
        return left;
    }

    private Expr power() {
        Expr left = unary(true);
        while (current().isOperator("**")) {
            Token op = next();
            left = new Expr.Binary(op.line(), op.text(), left, unary(true));
        }
        return left;
    }

    private Expr unary(boolean filters) {
        Expr node;
        if (current().isOperator("-") || current().isOperator("+")) {
            Token op = next();
            deeper();
            node = new Expr.Sign(op.line(), op.text().equals("-"), unary(false));
            shallower();
        } else {
            node = primary();
        }
        node = postfix(node);
        while (filters) {
            if (current().isOperator("|")) {
                node = filters(node, false);
            } else if (current().isName("is")) {
                node = test(node);
            } else if (current().isOperator("(")) {
                node = call(node);
            } else {
                break;
            }
        }
        return node;
    }

    protected static boolean isConstant(String name) {
        return CONSTANTS.contains(name);
    }

    private Expr primary() {
        Token token = next();
        return switch (token.type()) {
            case NAME -> name(token);
            case STRING -> {
                StringBuilder text = new StringBuilder(token.text());
                while (current().type() == Type.STRING) {
                    text.append(next().text());
                }
                yield new Expr.Const(token.line(), text.toString());
            }
            case INTEGER, FLOAT -> new Expr.Const(token.line(), token.value());
            case OPERATOR -> switch (token.text()) {
                case "(" -> {
                    Expr inner = tuple(true, null, true);
                    expectOperator(")");
                    yield inner;
                }
                case "[" -> new Expr.ListLiteral(token.line(), items("]"));
                case "{" -> dict(token.line());
                default -> throw fail("unexpected " + Repr.quote(token.describe()), token.line());
            };
            default -> throw fail("unexpected " + Repr.quote(token.describe()), token.line());
        };
    }

    private Expr name(Token token) {
        switch (token.text()) {
            case "varargs" -> readsVarargs = true;
            case "kwargs" -> readsKwargs = true;
            case "caller" -> readsCaller = true;
            default -> {}
        }
        return switch (token.text()) {
            case "true", "True" -> new Expr.Const(token.line(), true);
            case "false", "False" -> new Expr.Const(token.line(), false);
            case "none", "None" -> new Expr.Const(token.line(), null);
            default -> new Expr.Name(token.line(), token.text());
        };
    }

    private List<Expr> items(String close) {
        List<Expr> items = new ArrayList<>();
        while (!current().isOperator(close)) {
            items.add(expression());
            if (!current().isOperator(close)) {
                expectOperator(",");
            }
        }
        next();
        return List.copyOf(items);
    }

    private Expr dict(int line) {
        List<Expr> keys = new ArrayList<>();
        List<Expr> values = new ArrayList<>();
        while (!current().isOperator("}")) {
            keys.add(expression());
            expectOperator(":");
            values.add(expression());
            if (!current().isOperator("}")) {
                expectOperator(",");
            }
        }
        next();
        return new Expr.DictLiteral(line, List.copyOf(keys), List.copyOf(values));
    }

    private Expr postfix(Expr start) {
        Expr node = start;
        while (true) {
            if (current().isOperator(".")) {
                int line = next().line();
                Token name = next();
                node = switch (name.type()) {
                    case NAME -> new Expr.Attribute(line, node, name.text());
                    case INTEGER -> new Expr.Item(line, node, new Expr.Const(name.line(), name.value()));
                    default -> throw fail("expected name or number", name.line());
                };
            } else if (current().isOperator("[")) {
                node = subscript(node);
            } else if (current().isOperator("(")) {
                node = call(node);
            } else {
                return node;
            }
        }
    }

    private Expr subscript(Expr target) {
        int line = next().line();
        List<Expr> parts = new ArrayList<>();
        while (!current().isOperator("]")) {
            if (!parts.isEmpty()) {
                expectOperator(",");
            }
            parts.add(subscribed());
        }
        next();
        return new Expr.Item(line, target,
                parts.size() == 1 ? parts.getFirst() : new Expr.TupleLiteral(line, List.copyOf(parts)));
    }

    private Expr subscribed() {
        int line = current().line();
        Expr start = current().isOperator(":") ? null : expression();
        if (!skipOperator(":")) {
            return start;
        }
        Expr stop = current().isOperator(":") ? null : bound();
        Expr step = skipOperator(":") ? bound() : null;
        return new Expr.Slice(line, start, stop, step);
    }

    private Expr bound() {
        return current().isOperator("]") || current().isOperator(",") ? null : expression();
    }

    private Expr.Call call(Expr target) {
        int line = current().line();
        return new Expr.Call(line, target, arguments());
    }

    private Expr.Arguments arguments() {
        int line = current().line();
        expectOperator("(");
        List<Expr> positional = new ArrayList<>();
        List<String> names = new ArrayList<>();
        List<Expr> named = new ArrayList<>();
        Expr star = null;
        Expr doubleStar = null;
        while (!current().isOperator(")")) {
            boolean valid;
            if (skipOperator("*")) {
                valid = star == null && doubleStar == null;
                star = expression();
            } else if (skipOperator("**")) {
                valid = doubleStar == null;
                doubleStar = expression();
            } else if (current().type() == Type.NAME && look().isOperator("=")) {
                String name = next().text();
                valid = doubleStar == null && !names.contains(name);
                next();
                names.add(name);
                named.add(expression());
            } else {
                valid = star == null && doubleStar == null && names.isEmpty();
                positional.add(expression());
            }
            if (!valid) {
                throw fail("invalid syntax for function call expression", line);
            }
            if (!current().isOperator(")")) {
                expectOperator(",");
            }
        }
        next();
        return new Expr.Arguments(List.copyOf(positional), List.copyOf(names), List.copyOf(named), star, doubleStar);
    }

    /** A chain of filters; {@code inline} when the first stands without its bar. */
    protected final Expr filters(Expr start, boolean inline) {
        Expr node = start;
        boolean first = inline;
        while (first || current().isOperator("|")) {
            if (!first) {
                next();
            }
            first = false;
            Token token = expect(Type.NAME, "'name'");
            String name = dotted(token.text());
            Expr.Arguments arguments = current().isOperator("(") ? arguments() : Expr.Arguments.NONE;
            if (!soft && !Filters.exists(name)) {
                unknown.add(new Unknown(Filters.unknown(name), token.line()));
            }
            node = new Expr.Filter(token.line(), node, name, arguments);
        }
        return node;
    }

    private String dotted(String head) {
        StringBuilder name = new StringBuilder(head);
        while (skipOperator(".")) {
            name.append('.').append(expect(Type.NAME, "'name'").text());
        }
        return name.toString();
    }

    private Expr test(Expr target) {
        int line = next().line();
        boolean negated = skipName("not");
        String name = dotted(expect(Type.NAME, "'name'").text());
        Expr.Arguments arguments = Expr.Arguments.NONE;
        Token token = current();
        boolean operand = switch (token.type()) {
            case NAME -> !Set.of("else", "or", "and").contains(token.text());
            case STRING, INTEGER, FLOAT -> true;
            case OPERATOR -> token.text().equals("[") || token.text().equals("{");
            default -> false;
        };
        if (token.isOperator("(")) {
            arguments = arguments();
        } else if (operand) {
            if (token.isName("is")) {
                throw fail("You cannot chain multiple tests with is", token.line());
            }
            arguments = new Expr.Arguments(List.of(postfix(primary())), List.of(), List.of(), null, null);
        }
        if (!soft && !Tests.exists(name)) {
            unknown.add(new Unknown(Tests.unknown(name), line));
        }
        Expr test = new Expr.Test(line, target, name, arguments);
        return negated ? new Expr.Not(line, test) : test;
    }
}
