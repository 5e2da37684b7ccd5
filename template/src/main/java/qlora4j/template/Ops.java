package qlora4j.template;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Undefined;
import qlora4j.template.Values.View;

/** Python's operators. */
final class Ops {

    private Ops() {
    }

    static Object binary(Interpreter in, String op, Object a, Object b) {
        Session session = in.session;
        if (Num.isNumber(a) && Num.isNumber(b)) {
            return Num.binary(op, a, b);
        }
        if (op.equals("%") && Py.isString(a)) {
            return Html.like(a, session.built(PercentFormat.format(in, Py.text(a), b, a instanceof Markup)));
        }
        if (a instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (b instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (op.equals("+")) {
            return add(session, a, b);
        }
        if (op.equals("*") && Num.isInteger(b) && isSequence(a)) {
            return repeat(session, a, b);
        }
        if (op.equals("*") && Num.isInteger(a) && isSequence(b)) {
            return repeat(session, b, a);
        }
        if (op.equals("*") && (isSequence(a) || isSequence(b))) {
            throw Fault.type("can't multiply sequence by non-int of type "
                    + Repr.quote(Py.typeName(isSequence(a) ? b : a)));
        }
        throw unsupported(op.equals("**") ? "** or pow()" : op, a, b);
    }

    private static Fault unsupported(String op, Object a, Object b) {
        return Fault.type("unsupported operand type(s) for " + op + ": " + Repr.quote(Py.typeName(a)) + " and "
                + Repr.quote(Py.typeName(b)));
    }

    private static boolean isSequence(Object value) {
        return Py.isString(value) || value instanceof Seq;
    }

    private static Object add(Session session, Object a, Object b) {
        if (Py.isString(a) && Py.isString(b)) {
            if (a instanceof Markup || b instanceof Markup) {
                String left = Html.escape(a);
                String right = Html.escape(b);
                session.room((long) left.length() + right.length());
                return new Markup(left + right);
            }
            session.room((long) Py.text(a).length() + Py.text(b).length());
            return Py.text(a) + Py.text(b);
        }
        if (Py.isString(a)) {
            throw Fault.type("can only concatenate str (not \"" + Py.typeName(b) + "\") to str");
        }
        if (a instanceof Seq x && b instanceof Seq y && x.tuple() == y.tuple()) {
            session.tick(x.items().size() + (long) y.items().size());
            List<Object> items = new ArrayList<>(x.items());
            items.addAll(y.items());
            return new Seq(items, x.tuple(), List.of());
        }
        if (a instanceof Seq) {
            String type = Py.typeName(a);
            throw Fault.type("can only concatenate " + type + " (not \"" + Py.typeName(b) + "\") to " + type);
        }
        throw unsupported("+", a, b);
    }

    private static Object repeat(Session session, Object sequence, Object count) {
        long times = Num.big(count).signum() <= 0 ? 0
                : Num.big(count).bitLength() > 31 ? 1L << 31 : Num.big(count).longValue();
        if (sequence instanceof Seq seq) {
            session.tick(times * seq.items().size());
            List<Object> items = new ArrayList<>();
            for (long i = 0; i < times && !seq.items().isEmpty(); i++) {
                items.addAll(seq.items());
            }
            return new Seq(items, seq.tuple(), List.of());
        }
        String text = Py.text(sequence);
        session.room(times * text.length());
        return Html.like(sequence, text.isEmpty() ? "" : text.repeat((int) times));
    }

    static Object sign(boolean negative, Object value) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Num.isNumber(value)) {
            throw Fault.type(
                    "bad operand type for unary " + (negative ? "-" : "+") + ": " + Repr.quote(Py.typeName(value)));
        }
        return negative ? Num.negate(value) : Num.plus(value);
    }

    /** {@code a op b} for the operators of a comparison. */
    static boolean compare(Session session, String op, Object a, Object b) {
        return switch (op) {
            case "==" -> equal(session, a, b);
            case "!=" -> !equal(session, a, b);
            case "in" -> contains(session, b, a);
            case "not in" -> !contains(session, b, a);
            default -> ordered(session, op, a, b);
        };
    }

    static boolean equal(Session session, Object a, Object b) {
        if (a == b && !(a instanceof Double)) {
            return true;
        }
        session.tick(1);
        if (Num.isNumber(a) && Num.isNumber(b)) {
            return Num.compare(a, b) == 0;
        }
        if (Py.isString(a) && Py.isString(b)) {
            return Py.text(a).equals(Py.text(b));
        }
        session.enter();
        boolean equal = switch (a) {
            case Seq x when b instanceof Seq y -> x.tuple() == y.tuple() && allEqual(session, x.items(), y.items());
            case Dict x when b instanceof Dict y -> dictsEqual(session, x, y);
            case Namespace x -> false;
            case Undefined x -> b instanceof Undefined;
            case Range x when b instanceof Range y -> x.length() == y.length()
                    && (x.length() == 0 || x.start() == y.start() && (x.length() == 1 || x.step() == y.step()));
            case View x when b instanceof View y && !x.kind().equals("values") && x.kind().equals(y.kind()) ->
                x.dict().size() == y.dict().size() && Py.viewed(x).stream().allMatch(i -> contains(session, y, i));
            case null, default -> false;
        };
        session.leave();
        return equal;
    }

    private static boolean allEqual(Session session, List<Object> a, List<Object> b) {
        if (a.size() != b.size()) {
            return false;
        }
        for (int i = 0; i < a.size(); i++) {
            if (!equal(session, a.get(i), b.get(i))) {
                return false;
            }
        }
        return true;
    }

    private static boolean dictsEqual(Session session, Dict a, Dict b) {
        if (a.size() != b.size()) {
            return false;
        }
        for (Dict.Entry entry : a.entries()) {
            Object other = b.get(entry.key());
            if (other == Values.MISSING || !equal(session, entry.value(), other)) {
                return false;
            }
        }
        return true;
    }

    static boolean contains(Session session, Object container, Object item) {
        if (Py.isString(container)) {
            if (item instanceof Undefined || !Py.isString(item)) {
                throw Fault.type("'in <string>' requires string as left operand, not " + Py.typeName(item));
            }
            return find(session, Py.text(container), Py.text(item), 0) >= 0;
        }
        if (container instanceof Dict dict) {
            return dict.contains(item);
        }
        if (container instanceof View view && view.kind().equals("keys")) {
            return view.dict().contains(item);
        }
        if (!Py.isIterable(container)) {
            throw Fault.type("argument of type " + Repr.quote(Py.typeName(container)) + " is not iterable");
        }
        Iterator<Object> items = Py.iterate(session, container);
        while (items.hasNext()) {
            if (equal(session, items.next(), item)) {
                return true;
            }
        }
        return false;
    }

    /** {@code text.indexOf(part, from)} that counts the steps of the worst case. */
    static int find(Session session, String text, String part, int from) {
        session.tick((long) (text.length() - from) * part.length()
                / (Session.CHARS_PER_STEP * (long) Session.CHARS_PER_STEP));
        return text.indexOf(part, from);
    }

    /** Python's {@code a < b}. */
    static boolean less(Session session, Object a, Object b) {
        return ordered(session, "<", a, b);
    }

    private static boolean ordered(Session session, String op, Object a, Object b) {
        session.tick(1);
        if (a instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (b instanceof Undefined undefined) {
            throw undefined.fault();
        }
        int order;
        if (Num.isNumber(a) && Num.isNumber(b)) {
            order = Num.compare(a, b);
        } else if (Py.isString(a) && Py.isString(b)) {
            order = Unicode.compare(Py.text(a), Py.text(b));
        } else if (a instanceof Seq x && b instanceof Seq y && x.tuple() == y.tuple()) {
            int n = Math.min(x.items().size(), y.items().size());
            int i = 0;
            while (i < n && equal(session, x.items().get(i), y.items().get(i))) {
                i++;
            }
            if (i < n) {
                session.enter();
                boolean result = ordered(session, op, x.items().get(i), y.items().get(i));
                session.leave();
                return result;
            }
            order = Integer.compare(x.items().size(), y.items().size());
        } else {
            throw Fault
                    .type(Repr.quote(op) + " not supported between instances of " + Repr.quote(Py.typeName(a)) + " and "
                            + Repr.quote(Py.typeName(b)));
        }
        return order != 2 && switch (op) {
            case "<" -> order < 0;
            case "<=" -> order <= 0;
            case ">" -> order > 0;
            default -> order >= 0;
        };
    }
}
