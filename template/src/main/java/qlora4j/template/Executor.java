package qlora4j.template;

import java.util.Iterator;
import java.util.List;
import qlora4j.template.Stmt.Target;
import qlora4j.template.Values.Namespace;

/** Carries out statements. */
final class Executor {

    /** How a list of statements ended. */
    enum End {
        NORMAL, BREAK, CONTINUE
    }

    private final Interpreter in;
    private final Session session;

    Executor(Interpreter in) {
        this.in = in;
        this.session = in.session;
    }

    End run(List<Stmt> body, Scope scope) {
        session.enter();
        End end = End.NORMAL;
        for (Stmt stmt : body) {
            session.line = stmt.line();
            end = run(stmt, scope);
            if (end != End.NORMAL) {
                break;
            }
        }
        session.leave();
        return end;
    }

    private End run(Stmt stmt, Scope scope) {
        switch (stmt) {
            case Stmt.Text text -> session.out().write(text.text());
            case Stmt.Print print -> session.out().write(in.str(in.eval(print.value(), scope)));
            case Stmt.For loop -> {
                return loop(loop, in.eval(loop.iterable(), scope), 0, scope);
            }
            case Stmt.If branches -> {
                return branches(branches, scope);
            }
            case Stmt.With with -> {
                Scope inner = new Scope(scope);
                for (int i = 0; i < with.targets().size(); i++) {
                    assign(with.targets().get(i), in.eval(with.values().get(i), scope), inner);
                }
                return run(with.body(), inner);
            }
            case Stmt.Set set -> assign(set.target(), in.eval(set.value(), scope), scope);
            case Stmt.SetBlock block -> {
                session.push();
                End end = run(block.body(), new Scope(scope));
                if (end != End.NORMAL) {
                    session.drop();
                    return end;
                }
                Object text = session.pop();
                assign(block.target(), block.filter() == null ? text : in.filterChain(block.filter(), text, scope),
                        scope);
            }
            case Stmt.FilterBlock block -> {
                session.push();
                End end = run(block.body(), new Scope(scope));
                if (end != End.NORMAL) {
                    session.drop();
                    return end;
                }
                String text = session.pop();
                session.out().write(in.str(in.filterChain(block.filter(), text, scope)));
            }
            case Stmt.MacroDefinition macro -> scope.set(macro.name(),
                    new Macro(this, macro.name(), macro.signature(), macro.body(), scope));
            case Stmt.CallBlock block -> {
                Macro caller = new Macro(this, "caller", block.signature(), block.body(), scope);
                Object target = in.eval(block.call().target(), scope);
                Args args = in.args(block.call().arguments(), scope);
                session.line = block.line();
                session.out().write(in.str(in.call(target, args.with("caller", caller))));
            }
            case Stmt.Generation generation -> {
                session.push();
                run(generation.body(), new Scope(scope));
                String text = session.pop();
                session.out().writeGeneration(text);
            }
            case Stmt.Block block -> run(block.body(), new Scope(block.scoped() ? scope : scope.top()));
            case Stmt.Autoescape block -> {
                if (Py.truth(in.eval(block.enabled(), scope))) {
                    throw Fault.runtime("autoescape cannot be turned on: a chat template writes plain text");
                }
                return run(block.body(), new Scope(scope));
            }
            case Stmt.Break stop -> {
                return End.BREAK;
            }
            case Stmt.Continue next -> {
                return End.CONTINUE;
            }
        }
        return End.NORMAL;
    }

    private End branches(Stmt.If stmt, Scope scope) {
        for (Stmt.Branch branch : stmt.branches()) {
            if (Py.truth(in.eval(branch.test(), scope))) {
                return run(branch.body(), scope);
            }
        }
        return run(stmt.otherwise(), scope);
    }

    /** Runs a loop over {@code iterable}; {@code depth} counts recursive calls of it. */
    End loop(Stmt.For stmt, Object iterable, int depth, Scope scope) {
        Iterator<Object> items = Py.iterate(session, iterable);
        Object source = iterable;
        if (stmt.filter() != null) {
            items = filtered(stmt, items, scope);
            source = null;
        }
        Loop loop = new Loop(this, stmt, source, items, depth, scope);
        boolean any = false;
        while (loop.advance()) {
            any = true;
            session.tick(1);
            Scope inner = new Scope(scope);
            inner.set("loop", loop);
            assign(stmt.target(), loop.current(), inner);
            if (run(stmt.body(), inner) == End.BREAK) {
                break;
            }
        }
        return any ? End.NORMAL : run(stmt.otherwise(), new Scope(scope));
    }

    /** The items that pass a loop's condition, which is evaluated as the loop reaches them. */
    private Iterator<Object> filtered(Stmt.For stmt, Iterator<Object> items, Scope scope) {
        return new Lookahead(() -> {
            while (items.hasNext()) {
                Object item = items.next();
                Scope inner = new Scope(scope);
                assign(stmt.target(), item, inner);
                if (Py.truth(in.eval(stmt.filter(), inner))) {
                    return item;
                }
            }
            return Values.MISSING;
        });
    }

    /** The text of a recursive loop over other items. */
    String recurse(Stmt.For stmt, Object iterable, int depth, Scope scope) {
        session.push();
        loop(stmt, iterable, depth, scope);
        return session.pop();
    }

    /** The text of a macro's body. */
    String body(List<Stmt> body, Scope scope) {
        session.push();
        run(body, scope);
        return session.pop();
    }

    Object eval(Expr expr, Scope scope) {
        return in.eval(expr, scope);
    }

    private void assign(Target target, Object value, Scope scope) {
        switch (target) {
            case Stmt.NameTarget name -> scope.set(name.name(), value);
            case Stmt.NamespaceTarget name -> {
                if (!(scope.get(name.namespace()) instanceof Namespace namespace)) {
                    throw Fault.runtime("cannot assign attribute on non-namespace object");
                }
                namespace.attributes().put(name.attribute(), value);
            }
            case Stmt.TupleTarget tuple -> {
                if (!Py.isIterable(value)) {
                    throw Fault.type("cannot unpack non-iterable " + Py.typeName(value) + " object");
                }
                List<Object> values = Py.list(session, value);
                int wanted = tuple.items().size();
                if (values.size() != wanted) {
                    throw Fault.value(values.size() > wanted ? "too many values to unpack (expected " + wanted + ")"
                            : "not enough values to unpack (expected " + wanted + ", got " + values.size() + ")");
                }
                for (int i = 0; i < wanted; i++) {
                    assign(tuple.items().get(i), values.get(i), scope);
                }
            }
        }
    }
}
