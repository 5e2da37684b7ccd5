package qlora4j.template;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Function;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** The variable {@code loop} inside a for loop. */
final class Loop implements Attributes, Callable {

    private final Executor executor;
    private final Stmt.For stmt;
    private final Object source;
    private final int depth;
    private final Scope scope;
    private Iterator<Object> items;
    private long index = -1;
    private long length = -1;
    private Object before = Values.MISSING;
    private Object current = Values.MISSING;
    private Object after = Values.MISSING;
    private Object changed = Values.MISSING;

    /**
     * Before the first item.
     *
     * @param source what the items come from, null where only the items can tell how many there are
     */
    Loop(Executor executor, Stmt.For stmt, Object source, Iterator<Object> items, int depth, Scope scope) {
        this.executor = executor;
        this.stmt = stmt;
        this.source = source;
        this.items = items;
        this.depth = depth;
        this.scope = scope;
    }

    /** Goes to the next item, if there is one. */
    boolean advance() {
        if (after == Values.MISSING && !items.hasNext()) {
            return false;
        }
        before = current;
        current = after == Values.MISSING ? items.next() : after;
        after = Values.MISSING;
        index++;
        return true;
    }

    Object current() {
        return current;
    }

    private Object peek() {
        if (after == Values.MISSING && items.hasNext()) {
            after = items.next();
        }
        return after;
    }

    long length() {
        if (length < 0 && source != null) {
            length = Py.lengthOrNone(source);
        }
        if (length < 0) {
            List<Object> rest = new ArrayList<>();
            items.forEachRemaining(rest::add);
            items = rest.iterator();
            length = rest.size() + index + 1 + (after == Values.MISSING ? 0 : 1);
        }
        return length;
    }

    @Override
    public Object attribute(Interpreter in, String name) {
        return switch (name) {
            case "index" -> index + 1;
            case "index0" -> index;
            case "revindex" -> length() - index;
            case "revindex0" -> length() - index - 1;
            case "first" -> index == 0;
            case "last" -> peek() == Values.MISSING;
            case "length" -> length();
            case "depth" -> depth + 1L;
            case "depth0" -> (long) depth;
            case "previtem" -> index == 0 ? Undefined.hint("there is no previous item") : before;
            case "nextitem" -> peek() == Values.MISSING ? Undefined.hint("there is no next item") : peek();
            case "cycle" -> Function.method("cycle", (i, args) -> {
                if (args.positional().isEmpty()) {
                    throw Fault.type("no items for cycling given");
                }
                return args.positional().get((int) (index % args.positional().size()));
            });
            case "changed" -> Function.method("changed", (i, args) -> {
                Seq value = Seq.tuple(args.positional());
                boolean differs = changed == Values.MISSING || !Ops.equal(i.session, changed, value);
                changed = differs ? value : changed;
                return differs;
            });
            default -> Values.MISSING;
        };
    }

    @Override
    public Object call(Interpreter in, Args args) {
        Object iterable = args.bind("loop", 1, "iterable")[0];
        if (!stmt.recursive()) {
            throw Fault.type("The loop must have the 'recursive' marker to be called recursively.");
        }
        return executor.recurse(stmt, iterable, depth + 1, scope);
    }

    @Override
    public String typeName() {
        return "LoopContext";
    }

    @Override
    public String repr() {
        return "<LoopContext " + (index + 1) + "/" + length() + ">";
    }
}
