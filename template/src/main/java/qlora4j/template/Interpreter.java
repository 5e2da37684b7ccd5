package qlora4j.template;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Slice;
import qlora4j.template.Values.Undefined;

/** Evaluates expressions. */
final class Interpreter {

    final Session session;

    Interpreter(Session session) {
        this.session = session;
    }

    Object eval(Expr expr, Scope scope) {
        session.enter();
        session.line = expr.line();
        Object value = switch (expr) {
            case Expr.Const constant -> constant.value();
            case Expr.Name name -> {
                Object found = scope.get(name.name());
                yield found == Values.MISSING ? Undefined.named(name.name()) : found;
            }
            case Expr.ListLiteral list -> Seq.list(all(list.items(), scope));
            case Expr.TupleLiteral tuple -> Seq.tuple(all(tuple.items(), scope));
            case Expr.DictLiteral dict -> dict(dict, scope);
            case Expr.Attribute attribute -> {
                Object target = eval(attribute.target(), scope);
                session.line = expr.line();
                yield Access.attribute(this, target, attribute.name());
            }
            case Expr.Item item -> {
                Object target = eval(item.target(), scope);
                Object index = eval(item.index(), scope);
                session.line = expr.line();
                yield Access.item(this, target, index);
            }
            case Expr.Slice slice -> new Slice(optional(slice.start(), scope), optional(slice.stop(), scope),
                    optional(slice.step(), scope));
            case Expr.Call call -> {
                Object target = eval(call.target(), scope);
                Args args = args(call.arguments(), scope);
                session.line = expr.line();
                yield call(target, args);
            }
            case Expr.Filter filter -> filter(filter, eval(filter.target(), scope), scope);
            case Expr.Test test -> {
                Object target = eval(test.target(), scope);
                Args args = args(test.arguments(), scope);
                session.line = expr.line();
                yield Tests.apply(this, test.name(), target, args);
            }
            case Expr.Sign sign -> Ops.sign(sign.negative(), eval(sign.operand(), scope));
            case Expr.Not not -> !Py.truth(eval(not.operand(), scope));
            case Expr.Binary binary -> binary(binary, scope);
            case Expr.Concat concat -> concat(concat, scope);
            case Expr.Compare compare -> compare(compare, scope);
            case Expr.And and -> {
                Object left = eval(and.left(), scope);
                yield Py.truth(left) ? eval(and.right(), scope) : left;
            }
            case Expr.Or or -> {
                Object left = eval(or.left(), scope);
                yield Py.truth(left) ? left : eval(or.right(), scope);
            }
            case Expr.Conditional conditional -> conditional(conditional, scope);
        };
        session.leave();
        return value;
    }

    private Object optional(Expr expr, Scope scope) {
        return expr == null ? null : eval(expr, scope);
    }

    private List<Object> all(List<Expr> items, Scope scope) {
        List<Object> values = new ArrayList<>(items.size());
        for (Expr item : items) {
            values.add(eval(item, scope));
        }
        return values;
    }

    private Object dict(Expr.DictLiteral literal, Scope scope) {
        Dict dict = new Dict();
        for (int i = 0; i < literal.keys().size(); i++) {
            Object key = eval(literal.keys().get(i), scope);
            dict.put(key, eval(literal.values().get(i), scope));
        }
        return dict;
    }

    /** A chain of operators that lean to the left is walked without recursion, so that long sums do not nest. */
    private Object binary(Expr.Binary last, Scope scope) {
        List<Expr.Binary> chain = new ArrayList<>();
        Expr first = last;
        while (first instanceof Expr.Binary binary) {
            chain.add(binary);
            first = binary.left();
        }
        Object value = eval(first, scope);
        for (Expr.Binary binary : chain.reversed()) {
            Object right = eval(binary.right(), scope);
            session.line = binary.line();
            value = Ops.binary(this, binary.op(), value, right);
        }
        return value;
    }

    private Object concat(Expr.Concat concat, Scope scope) {
        StringBuilder text = new StringBuilder();
        for (Object value : all(concat.parts(), scope)) {
            String part = str(value);
            session.checkLength((long) text.length() + part.length());
            text.append(part);
        }
        return session.built(text.toString());
    }

    private Object compare(Expr.Compare compare, Scope scope) {
        Object left = eval(compare.first(), scope);
        for (int i = 0; i < compare.ops().size(); i++) {
            Object right = eval(compare.operands().get(i), scope);
            session.line = compare.line();
            if (!Ops.compare(session, compare.ops().get(i), left, right)) {
                return false;
            }
            left = right;
        }
        return true;
    }

    private Object conditional(Expr.Conditional conditional, Scope scope) {
        if (Py.truth(eval(conditional.test(), scope))) {
            return eval(conditional.then(), scope);
        }
        return conditional.otherwise() != null ? eval(conditional.otherwise(), scope)
                : Undefined.hint("the inline if-expression on line " + conditional.line()
                        + " evaluated to false and no else section was defined.");
    }

    /** A filter's value; a chain without a head starts from {@code head}. */
    Object filter(Expr.Filter filter, Object target, Scope scope) {
        Args args = args(filter.arguments(), scope);
        session.line = filter.line();
        return Filters.apply(this, filter.name(), target, args);
    }

    /** Applies a chain of filters whose innermost target is null to a value. */
    Object filterChain(Expr.Filter chain, Object head, Scope scope) {
        Object target = chain.target() == null ? head : filterChain((Expr.Filter) chain.target(), head, scope);
        return filter(chain, target, scope);
    }

    Args args(Expr.Arguments arguments, Scope scope) {
        if (arguments == Expr.Arguments.NONE) {
            return Args.NONE;
        }
        List<Object> positional = all(arguments.positional(), scope);
        Map<String, Object> named = new LinkedHashMap<>();
        for (int i = 0; i < arguments.names().size(); i++) {
            named.put(arguments.names().get(i), eval(arguments.named().get(i), scope));
        }
        if (arguments.star() != null) {
            positional.addAll(Py.list(session, eval(arguments.star(), scope)));
        }
        if (arguments.doubleStar() != null) {
            Object mapping = eval(arguments.doubleStar(), scope);
            if (!(mapping instanceof Dict dict)) {
                throw Fault.type("argument after ** must be a mapping, not " + Py.typeName(mapping));
            }
            for (Dict.Entry entry : dict.entries()) {
                if (!Py.isString(entry.key())) {
                    throw Fault.type("keywords must be strings");
                }
                if (named.containsKey(Py.text(entry.key()))) {
                    throw Fault.type("got multiple values for keyword argument " + Repr.quote(Py.text(entry.key())));
                }
                named.put(Py.text(entry.key()), entry.value());
            }
        }
        return new Args(positional, named);
    }

    Object call(Object target, Args args) {
        session.tick(1);
        return switch (target) {
            case Undefined undefined -> throw undefined.fault();
            case Callable callable -> callable.call(this, args);
            case null, default -> throw Fault.type(Repr.quote(Py.typeName(target)) + " object is not callable");
        };
    }

    String str(Object value) {
        return Repr.str(session, value);
    }
}
