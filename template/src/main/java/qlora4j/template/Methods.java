package qlora4j.template;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Values.Function;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.View;

/** The methods and attributes of the built-in types, but for those of strings and those that change a value. */
final class Methods {

    private Methods() {
    }

    /** A value's method or attribute of this name, or null. */
    static Object of(Object value, String name) {
        return switch (value) {
            case String text -> StringMethods.of(text, name);
            case Markup markup -> markup(markup, name);
            case Dict dict -> dict(dict, name);
            case Seq seq -> seq(seq, name);
            case Range range -> switch (name) {
                case "start" -> range.start();
                case "stop" -> range.stop();
                case "step" -> range.step();
                default -> null;
            };
            case Double real -> real(real, name);
            case null -> null;
            default -> Num.isInteger(value) ? integer(value, name) : null;
        };
    }

    private static Object dict(Dict dict, String name) {
        return switch (name) {
            case "keys", "values", "items" -> Function.method(name, (in, args) -> {
                args.none(name);
                return new View(name, dict);
            });
            case "get" -> Function.method(name, (in, args) -> {
                Object[] bound = args.bind(name, 1, "/key", "/default");
                Object found = dict.get(bound[0]);
                return found != Values.MISSING ? found : bound[1] == Values.MISSING ? null : bound[1];
            });
            case "copy" -> Function.method(name, (in, args) -> {
                args.none(name);
                in.session.tick(dict.size());
                return dict.copy();
            });
            default -> null;
        };
    }

    private static Object seq(Seq seq, String name) {
        return switch (name) {
            case "count" -> Function.method(name, (in, args) -> {
                Object wanted = args.bind(name, 1, "/value")[0];
                long count = 0;
                for (Object item : seq.items()) {
                    count += Ops.equal(in.session, item, wanted) ? 1 : 0;
                }
                return count;
            });
            case "index" -> Function.method(name, (in, args) -> {
                Object[] bound = args.bind(name, 1, "/value", "/start", "/stop");
                int size = seq.items().size();
                int start = bound[1] == Values.MISSING ? 0 : clampIndex(Py.integer(bound[1]), size);
                int stop = bound[2] == Values.MISSING ? size : clampIndex(Py.integer(bound[2]), size);
                for (int i = start; i < stop; i++) {
                    if (Ops.equal(in.session, seq.items().get(i), bound[0])) {
                        return (long) i;
                    }
                }
                throw Fault.value(Repr.repr(in.session, bound[0]) + " is not in " + Py.typeName(seq));
            });
            case "copy" -> seq.tuple() ? null : Function.method(name, (in, args) -> {
                args.none(name);
                in.session.tick(seq.items().size());
                return Seq.list(new ArrayList<>(seq.items()));
            });
            default -> null;
        };
    }

    static int clampIndex(int index, int size) {
        return Math.clamp(index < 0 ? (long) index + size : index, 0, size);
    }

    private static Object integer(Object integer, String name) {
        return switch (name) {
            case "real", "numerator" -> Num.plus(integer);
            case "imag" -> 0L;
            case "denominator" -> 1L;
            case "bit_length" -> Function.method(name, (in, args) -> (long) Num.big(integer).abs().bitLength());
            case "bit_count" -> Function.method(name, (in, args) -> (long) Num.big(integer).abs().bitCount());
            case "conjugate" -> Function.method(name, (in, args) -> Num.plus(integer));
            default -> null;
        };
    }

    private static Object real(Double real, String name) {
        return switch (name) {
            case "real" -> real;
            case "imag" -> 0.0;
            case "is_integer" ->
                Function.method(name, (in, args) -> !Double.isInfinite(real) && real == Math.rint(real));
            case "conjugate" -> Function.method(name, (in, args) -> real);
            case "as_integer_ratio" -> Function.method(name, (in, args) -> ratio(real));
            default -> null;
        };
    }

    private static Seq ratio(Double real) {
        Num.truncate(real);
        BigDecimal exact = new BigDecimal(real);
        BigInteger denominator = BigInteger.TEN.pow(Math.max(0, exact.scale()));
        BigInteger numerator = exact.multiply(new BigDecimal(denominator)).toBigIntegerExact();
        BigInteger common = numerator.gcd(denominator);
        return Args.tuple(Num.norm(numerator.divide(common)), Num.norm(denominator.divide(common)));
    }

    /** A string method on safe text: other texts are escaped on their way in, results are safe. */
    private static Object markup(Markup markup, String name) {
        if (name.equals("striptags")) {
            return Function.method(name, (in, args) -> Html.stripTags(markup.text()));
        }
        Object method = StringMethods.of(markup.text(), name);
        if (!(method instanceof Function function)) {
            return method;
        }
        return Function.method(name, (in, args) -> {
            List<Object> positional = new ArrayList<>();
            args.positional().forEach(arg -> positional.add(arg instanceof String text ? Html.escape(text) : arg));
            Map<String, Object> named = new LinkedHashMap<>();
            args.named().forEach((key, arg) -> named.put(key, arg instanceof String text ? Html.escape(text) : arg));
            return safe(function.call(in, new Args(positional, named)));
        });
    }

    private static Object safe(Object result) {
        return switch (result) {
            case String text -> new Markup(text);
            case Seq seq -> {
                List<Object> items = new ArrayList<>();
                seq.items().forEach(item -> items.add(safe(item)));
                yield new Seq(items, seq.tuple(), seq.names());
            }
            case null, default -> result;
        };
    }
}
