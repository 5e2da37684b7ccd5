package qlora4j.template;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Stmt.Signature;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;

/** A macro, or the body of a call block; it sees the scope it was defined in. */
final class Macro implements Attributes, Callable {

    private final Executor executor;
    private final String name;
    private final Signature signature;
    private final List<Stmt> body;
    private final Scope scope;

    Macro(Executor executor, String name, Signature signature, List<Stmt> body, Scope scope) {
        this.executor = executor;
        this.name = name;
        this.signature = signature;
        this.body = body;
        this.scope = scope;
    }

    @Override
    public Object call(Interpreter in, Args args) {
        List<String> names = signature.names();
        Map<String, Object> named = new LinkedHashMap<>(args.named());
        Scope inner = new Scope(scope);
        int given = Math.min(args.positional().size(), names.size());
        for (int i = 0; i < given; i++) {
            inner.set(names.get(i), args.positional().get(i));
        }
        List<Integer> absent = new ArrayList<>();
        for (int i = given; i < names.size(); i++) {
            if (named.containsKey(names.get(i))) {
                inner.set(names.get(i), named.remove(names.get(i)));
            } else {
                inner.set(names.get(i), Undefined.hint("parameter " + Repr.quote(names.get(i)) + " was not provided"));
                absent.add(i);
            }
        }
        if (signature.caller() && !names.contains("caller")) {
            Object caller = named.remove("caller");
            inner.set("caller", caller == null ? Undefined.hint("No caller defined") : caller);
        }
        bindRest(args, named, inner);
        int firstDefault = names.size() - signature.defaults().size();
        for (int i : absent) {
            if (i >= firstDefault) {
                inner.set(names.get(i), executor.eval(signature.defaults().get(i - firstDefault), inner));
            }
        }
        return executor.body(body, inner);
    }

    private void bindRest(Args args, Map<String, Object> named, Scope inner) {
        List<String> names = signature.names();
        if (signature.kwargs()) {
            Dict rest = new Dict();
            named.forEach(rest::put);
            inner.set("kwargs", rest);
        } else if (named.containsKey("caller")) {
            throw Fault
                    .type("macro " + Repr.quote(name) + " was invoked with two values for the special caller argument."
                            + " This is most likely a bug.");
        } else if (!named.isEmpty()) {
            throw Fault.type("macro " + Repr.quote(name) + " takes no keyword argument "
                    + Repr.quote(named.keySet().iterator().next()));
        }
        if (signature.varargs()) {
            inner.set("varargs", Seq.tuple(args.positional().size() > names.size()
                    ? args.positional().subList(names.size(), args.positional().size())
                    : List.of()));
        } else if (args.positional().size() > names.size()) {
            throw Fault.type("macro " + Repr.quote(name) + " takes not more than " + names.size() + " argument(s)");
        }
    }

    @Override
    public Object attribute(Interpreter in, String attribute) {
        return switch (attribute) {
            case "name" -> name;
            case "arguments" -> Seq.tuple(new ArrayList<>(signature.names()));
            case "catch_kwargs" -> signature.kwargs();
            case "catch_varargs" -> signature.varargs();
            case "caller" -> signature.caller();
            default -> Values.MISSING;
        };
    }

    @Override
    public String typeName() {
        return "Macro";
    }

    @Override
    public String repr() {
        return "<Macro " + Repr.quote(name) + ">";
    }
}
