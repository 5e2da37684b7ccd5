package qlora4j.template;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.Map;
import qlora4j.template.Filters.Filter;
import qlora4j.template.TemplateException.Kind;
import qlora4j.template.Values.Undefined;

/** The filters on numbers, and {@code default}. */
final class NumberFilters {

    private static final String[] SIZES = {"k", "M", "G", "T", "P", "E", "Z", "Y"};

    private NumberFilters() {
    }

    static void register(Map<String, Filter> filters) {
        filters.put("abs", (in, v, a) -> {
            a.none("abs");
            if (!Num.isNumber(v)) {
                throw Fault.type("bad operand type for abs(): " + Repr.quote(Py.typeName(v)));
            }
            return Num.abs(v);
        });
        filters.put("int", NumberFilters::toInteger);
        filters.put("float", NumberFilters::toReal);
        filters.put("round", NumberFilters::round);
        filters.put("filesizeformat", NumberFilters::fileSize);
        filters.put("default", NumberFilters::byDefault);
        filters.put("d", NumberFilters::byDefault);
    }

    private static Object byDefault(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("default", 0, "default_value", "boolean");
        boolean replace = value instanceof Undefined || Filters.flag(bound[1]) && !Py.truth(value);
        return replace ? Filters.or(bound[0], "") : value;
    }

    private static boolean isConversion(Fault fault) {
        return fault.kind == Kind.TYPE || fault.kind == Kind.VALUE;
    }

    private static Object toInteger(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("int", 0, "default", "base");
        int base = Py.integer(Filters.or(bound[1], 10L));
        try {
            return Py.isString(value) ? Num.parseInteger(Py.text(value), base) : integer(value);
        } catch (Fault notInteger) {
            if (!isConversion(notInteger)) {
                throw notInteger;
            }
        }
        try {
            return Num.truncate(real(value));
        } catch (Fault notReal) {
            if (!isConversion(notReal) && notReal.kind != Kind.OVERFLOW) {
                throw notReal;
            }
            return Filters.or(bound[0], 0L);
        }
    }

    private static Object toReal(Interpreter in, Object value, Args args) {
        Object byDefault = Filters.or(args.bind("float", 0, "default")[0], 0.0);
        try {
            return real(value);
        } catch (Fault notReal) {
            if (!isConversion(notReal)) {
                throw notReal;
            }
            return byDefault;
        }
    }

    private static Object integer(Object value) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Num.isNumber(value)) {
            throw Fault.type("int() argument must be a string, a bytes-like object or a real number, not "
                    + Repr.quote(Py.typeName(value)));
        }
        return value instanceof Double real ? Num.truncate(real) : Num.plus(value);
    }

    private static double real(Object value) {
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (Py.isString(value)) {
            return Num.parseReal(Py.text(value));
        }
        if (!Num.isNumber(value)) {
            throw Fault
                    .type("float() argument must be a string or a real number, not " + Repr.quote(Py.typeName(value)));
        }
        return Num.real(value);
    }

    private static Object round(Interpreter in, Object value, Args args) {
        Object[] bound = args.bind("round", 0, "precision", "method");
        int precision = Py.integer(Filters.or(bound[0], 0L));
        String method = in.str(Filters.or(bound[1], "common"));
        if (value instanceof Undefined undefined) {
            throw undefined.fault();
        }
        if (!Num.isNumber(value)) {
            throw Fault.type("type " + Py.typeName(value) + " doesn't define __round__ method");
        }
        if (Math.abs((long) precision) > NumberFormat.MAX_PRECISION) {
            throw Fault.limit("a precision of more than " + NumberFormat.MAX_PRECISION + " digits");
        }
        switch (method) {
            case "common" -> {
                return rounded(value, precision);
            }
            case "ceil", "floor" -> {
                Object scale = Num.binary("**", 10L, (long) precision);
                Object scaled = Num.binary("*", value, scale);
                RoundingMode mode = method.equals("ceil") ? RoundingMode.CEILING : RoundingMode.FLOOR;
                Num.truncate(scaled instanceof Double real ? real : 0);
                return Num.binary("/", Num.norm(Num.decimal(scaled).setScale(0, mode).toBigInteger()), scale);
            }
            default -> throw Fault.value("method must be common, ceil or floor");
        }
    }

    private static Object rounded(Object value, int precision) {
        if (value instanceof Double real && (Double.isNaN(real) || Double.isInfinite(real))) {
            return value;
        }
        if (Num.isInteger(value) && precision >= 0) {
            return Num.plus(value);
        }
        BigDecimal rounded = Num.decimal(value).setScale(precision, RoundingMode.HALF_EVEN);
        return value instanceof Double real ? (Object) Math.copySign(rounded.doubleValue(), real)
                : Num.norm(rounded.toBigInteger());
    }

    private static Object fileSize(Interpreter in, Object value, Args args) {
        boolean binary = Filters.flag(args.bind("filesizeformat", 0, "binary")[0]);
        double bytes = real(value);
        double base = binary ? 1024 : 1000;
        if (bytes == 1) {
            return "1 Byte";
        }
        if (bytes < base) {
            return Repr.str(in.session, Num.truncate(bytes)) + " Bytes";
        }
        double unit = base * base;
        int i = 0;
        while (bytes >= unit && i < SIZES.length - 1) {
            unit *= base;
            i++;
        }
        String prefix = binary ? Unicode.upper(SIZES[i]) + "iB" : SIZES[i] + "B";
        return NumberFormat.magnitude(base * bytes / unit, 'f', 1, false) + " " + prefix;
    }
}
