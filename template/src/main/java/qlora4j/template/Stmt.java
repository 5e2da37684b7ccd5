package qlora4j.template;

import java.util.List;

/** A statement of a template; {@code line} is where it begins. */
sealed interface Stmt {

    int line();

    /** Text outside of tags. */
    record Text(int line, String text) implements Stmt {}

    /** <code>{{ value }}</code>. */
    record Print(int line, Expr value) implements Stmt {}

    /** A loop; {@code filter} may be null. */
    record For(int line, Target target, Expr iterable, Expr filter, boolean recursive, List<Stmt> body,
            List<Stmt> otherwise) implements Stmt {}

    /** The branches of an if in order. */
    record If(int line, List<Branch> branches, List<Stmt> otherwise) implements Stmt {}

    record Branch(Expr test, List<Stmt> body) {}

    record With(int line, List<Target> targets, List<Expr> values, List<Stmt> body) implements Stmt {}

    record Set(int line, Target target, Expr value) implements Stmt {}

    /** A set block; {@code filter} (a chain whose innermost target is null) may be null. */
    record SetBlock(int line, Target target, Expr.Filter filter, List<Stmt> body) implements Stmt {}

    record FilterBlock(int line, Expr.Filter filter, List<Stmt> body) implements Stmt {}

    record MacroDefinition(int line, String name, Signature signature, List<Stmt> body) implements Stmt {}

    record CallBlock(int line, Signature signature, Expr.Call call, List<Stmt> body) implements Stmt {}

    record Generation(int line, List<Stmt> body) implements Stmt {}

    record Block(int line, String name, boolean scoped, List<Stmt> body) implements Stmt {}

    record Autoescape(int line, Expr enabled, List<Stmt> body) implements Stmt {}

    record Break(int line) implements Stmt {}

    record Continue(int line) implements Stmt {}

    /**
     * The parameters of a macro; defaults belong to the last ones. The flags say which of the names
     * {@code varargs}, {@code kwargs} and {@code caller} its body reads.
     */
    record Signature(List<String> names, List<Expr> defaults, boolean varargs, boolean kwargs, boolean caller) {}

    /** What can be assigned to. */
    sealed interface Target {}

    record NameTarget(String name) implements Target {}

    record NamespaceTarget(int line, String namespace, String attribute) implements Target {}

    record TupleTarget(int line, List<Target> items) implements Target {}
}
