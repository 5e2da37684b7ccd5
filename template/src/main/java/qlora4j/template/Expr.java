package qlora4j.template;

import java.util.List;

/** An expression of a template; {@code line} is where it begins. */
sealed interface Expr {

    int line();

    record Const(int line, Object value) implements Expr {}

    record Name(int line, String name) implements Expr {}

    record ListLiteral(int line, List<Expr> items) implements Expr {}

    record TupleLiteral(int line, List<Expr> items) implements Expr {}

    record DictLiteral(int line, List<Expr> keys, List<Expr> values) implements Expr {}

    record Attribute(int line, Expr target, String name) implements Expr {}

    record Item(int line, Expr target, Expr index) implements Expr {}

    /** {@code start:stop:step} inside a subscript; each part may be null. */
    record Slice(int line, Expr start, Expr stop, Expr step) implements Expr {}

    record Call(int line, Expr target, Arguments arguments) implements Expr {}

    /** A filter; the target is null at the head of a filter block's or set block's chain. */
    record Filter(int line, Expr target, String name, Arguments arguments) implements Expr {}

    record Test(int line, Expr target, String name, Arguments arguments) implements Expr {}

    /** {@code +} or {@code -}. */
    record Sign(int line, boolean negative, Expr operand) implements Expr {}

    record Not(int line, Expr operand) implements Expr {}

    record Binary(int line, String op, Expr left, Expr right) implements Expr {}

    record Concat(int line, List<Expr> parts) implements Expr {}

    /** {@code first op[0] operand[0] op[1] operand[1] ...}, as a chain. */
    record Compare(int line, Expr first, List<String> ops, List<Expr> operands) implements Expr {}

    record And(int line, Expr left, Expr right) implements Expr {}

    record Or(int line, Expr left, Expr right) implements Expr {}

    /** {@code then if test else otherwise}; {@code otherwise} may be null. */
    record Conditional(int line, Expr test, Expr then, Expr otherwise) implements Expr {}

    /** The arguments of a call; the starred ones may be null. */
    record Arguments(List<Expr> positional, List<String> names, List<Expr> named, Expr star, Expr doubleStar) {

        static final Arguments NONE = new Arguments(List.of(), List.of(), List.of(), null, null);
    }
}
