package qlora4j.template;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.math.RoundingMode;
import java.util.Collection;
import qlora4j.template.Values.Attributes;
import qlora4j.template.Values.Callable;
import qlora4j.template.Values.Function;
import qlora4j.template.Values.Generator;
import qlora4j.template.Values.Markup;
import qlora4j.template.Values.Namespace;
import qlora4j.template.Values.Range;
import qlora4j.template.Values.Seq;
import qlora4j.template.Values.Slice;
import qlora4j.template.Values.Undefined;
import qlora4j.template.Values.View;

/** Python's {@code str} and {@code repr}. */
final class Repr {

    private final Session session;
    private final StringBuilder out = new StringBuilder();

    private Repr(Session session) {
        this.session = session;
    }

    static String str(Session session, Object value) {
        return switch (value) {
            case String text -> text;
            case Markup markup -> markup.text();
            case Undefined undefined -> "";
            case null, default -> repr(session, value);
        };
    }

    static String repr(Session session, Object value) {
        Repr repr = new Repr(session);
        repr.append(value);
        session.tick(repr.out.length() / Session.CHARS_PER_STEP);
        return repr.out.toString();
    }

    private void append(Object value) {
        session.enter();
        session.tick(1);
        session.checkLength(out.length());
        switch (value) {
            case null -> out.append("None");
            case String text -> out.append(quote(text));
            case Markup markup -> out.append("Markup(").append(quote(markup.text())).append(')');
            case Boolean flag -> out.append(flag ? "True" : "False");
            case Long integer -> out.append(integer);
            case BigInteger integer -> out.append(digits(integer));
            case Double real -> out.append(real(real));
            case Seq seq -> sequence(seq);
            case Dict dict -> dict(dict);
            case View view -> {
                out.append("dict_").append(view.kind()).append("([");
                all(Py.viewed(view));
                out.append("])");
            }
            case Range r -> out.append("range(").append(r.start()).append(", ").append(r.stop())
                    .append(r.step() == 1 ? "" : ", " + r.step()).append(')');
            case Undefined undefined -> out.append("Undefined");
            case Namespace namespace -> {
                out.append("<Namespace ");
                dict(namespace.attributes());
                out.append('>');
            }
            case Slice slice -> {
                out.append("slice");
                sequence(Args.tuple(slice.start(), slice.stop(), slice.step()));
            }
            case Generator generator -> out.append("<").append(generator.typeName()).append(" object>");
            case Attributes attributes -> out.append(attributes.repr());
            case Function function ->
                out.append(function.typeName().equals("function") ? "<function " : "<built-in method ")
                        .append(function.name()).append('>');
            case Callable callable -> out.append('<').append(callable.typeName()).append('>');
            default -> throw new IllegalStateException("no template value: " + value.getClass());
        }
        session.leave();
    }

    private void sequence(Seq seq) {
        out.append(seq.tuple() ? '(' : '[');
        all(seq.items());
        out.append(seq.tuple() ? seq.items().size() == 1 ? ",)" : ")" : "]");
    }

    private void all(Collection<Object> items) {
        String separator = "";
        for (Object item : items) {
            out.append(separator);
            append(item);
            separator = ", ";
        }
    }

    private void dict(Dict dict) {
        out.append('{');
        String separator = "";
        for (Dict.Entry entry : dict.entries()) {
            out.append(separator);
            append(entry.key());
            out.append(": ");
            append(entry.value());
            separator = ", ";
        }
        out.append('}');
    }

    /** The decimal digits of an integer, as many as Python prints at most. */
    static String digits(BigInteger integer) {
        String digits = integer.toString();
        if (digits.length() - (integer.signum() < 0 ? 1 : 0) > Num.MAX_DIGITS) {
            throw Fault.value("Exceeds the limit (" + Num.MAX_DIGITS + " digits) for integer string conversion");
        }
        return digits;
    }

    /** The shortest digits that give this float back, in Python's layout. */
    static String real(double value) {
        if (Double.isNaN(value)) {
            return "nan";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "inf" : "-inf";
        }
        String sign = value < 0 || 1 / value < 0 ? "-" : "";
        if (value == 0) {
            return sign + "0.0";
        }
        double magnitude = Math.abs(value);
        // Double.toString gives the shortest digits, but never fewer than two of them.
        BigDecimal single = new BigDecimal(magnitude).round(new MathContext(1, RoundingMode.HALF_EVEN));
        BigDecimal decimal = single.doubleValue() == magnitude
                ? single.stripTrailingZeros()
                : new BigDecimal(Double.toString(magnitude)).stripTrailingZeros();
        String digits = decimal.unscaledValue().toString();
        int exponent = digits.length() - 1 - decimal.scale();
        if (exponent >= -4 && exponent < 16) {
            String plain = decimal.toPlainString();
            return sign + (plain.indexOf('.') < 0 ? plain + ".0" : plain);
        }
        String mantissa = digits.length() == 1 ? digits : digits.charAt(0) + "." + digits.substring(1);
        return sign + mantissa + "e" + (exponent < 0 ? "-" : "+") + (Math.abs(exponent) < 10 ? "0" : "")
                + Math.abs(exponent);
    }

    /** {@code repr} of a string. */
    static String quote(String text) {
        char quote = text.indexOf('\'') >= 0 && text.indexOf('"') < 0 ? '"' : '\'';
        StringBuilder out = new StringBuilder(text.length() + 2).append(quote);
        text.codePoints().forEach(c -> {
            switch (c) {
                case '\\' -> out.append("\\\\");
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                default -> {
                    if (c == quote) {
                        out.append('\\').append(quote);
                    } else if (Unicode.isPrintable(c)) {
                        out.appendCodePoint(c);
                    } else {
                        out.append(String.format(c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c));
                    }
                }
            }
        });
        return out.append(quote).toString();
    }
}
