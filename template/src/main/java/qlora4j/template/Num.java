package qlora4j.template;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;

/** Python's numbers: integers without bound (up to a limit that keeps them cheap), floats, and booleans as 0 and 1. */
final class Num {

    /** Digits of the longest integer that Python reads or prints by default. */
    static final int MAX_DIGITS = 4300;
    /** Bits of the largest integer a template may compute. */
    private static final int MAX_BITS = 65_536;
    private static final MathContext QUOTIENT = new MathContext(40);

    private Num() {
    }

    static boolean isInteger(Object value) {
        return value instanceof Long || value instanceof BigInteger || value instanceof Boolean;
    }

    static boolean isNumber(Object value) {
        return isInteger(value) || value instanceof Double;
    }

    static BigInteger big(Object integer) {
        return switch (integer) {
            case Long l -> BigInteger.valueOf(l);
            case Boolean b -> b ? BigInteger.ONE : BigInteger.ZERO;
            default -> (BigInteger) integer;
        };
    }

    /** A Long where it fits one. */
    static Object norm(BigInteger integer) {
        if (integer.bitLength() < Long.SIZE) {
            return integer.longValue();
        }
        if (integer.bitLength() > MAX_BITS) {
            throw Fault.limit("the template computes an integer of more than " + MAX_BITS + " bits");
        }
        return integer;
    }

    static double real(Object number) {
        if (number instanceof Double d) {
            return d;
        }
        double value = number instanceof Long l ? l : big(number).doubleValue();
        if (Double.isInfinite(value)) {
            throw Fault.overflow("int too large to convert to float");
        }
        return value;
    }

    static Object binary(String op, Object a, Object b) {
        boolean integers = isInteger(a) && isInteger(b);
        return switch (op) {
            case "+" -> integers ? norm(big(a).add(big(b))) : (Object) (real(a) + real(b));
            case "-" -> integers ? norm(big(a).subtract(big(b))) : (Object) (real(a) - real(b));
            case "*" -> integers ? norm(big(a).multiply(big(b))) : (Object) (real(a) * real(b));
            case "/" -> divide(a, b, integers);
            case "//" -> integers ? floorDiv(big(a), big(b)) : (Object) floorDiv(real(a), real(b));
            case "%" -> integers ? floorMod(big(a), big(b)) : (Object) floorMod(real(a), real(b));
            case "**" -> power(a, b, integers);
            default -> throw new IllegalStateException(op);
        };
    }

    private static Fault zero(String message) {
        return new Fault(TemplateException.Kind.ZERO_DIVISION, message);
    }

    private static Object divide(Object a, Object b, boolean integers) {
        if (!Py.truth(b)) {
            throw zero(integers ? "division by zero" : "float division by zero");
        }
        if (!integers) {
            return real(a) / real(b);
        }
        double quotient = new BigDecimal(big(a)).divide(new BigDecimal(big(b)), QUOTIENT).doubleValue();
        if (Double.isInfinite(quotient)) {
            throw Fault.overflow("integer division result too large for a float");
        }
        return quotient;
    }

    private static Object floorDiv(BigInteger a, BigInteger b) {
        if (b.signum() == 0) {
            throw zero("integer division or modulo by zero");
        }
        BigInteger[] parts = a.divideAndRemainder(b);
        boolean down = parts[1].signum() != 0 && parts[1].signum() != b.signum();
        return norm(down ? parts[0].subtract(BigInteger.ONE) : parts[0]);
    }

    private static Object floorMod(BigInteger a, BigInteger b) {
        if (b.signum() == 0) {
            throw zero("integer modulo by zero");
        }
        BigInteger rest = a.remainder(b);
        return norm(rest.signum() != 0 && rest.signum() != b.signum() ? rest.add(b) : rest);
    }

    private static double floorDiv(double a, double b) {
        if (b == 0) {
            throw zero("float floor division by zero");
        }
        double quotient = (a - floorMod(a, b)) / b;
        double floor = Math.floor(quotient);
        return quotient - floor > 0.5 ? floor + 1 : floor;
    }

    private static double floorMod(double a, double b) {
        if (b == 0) {
            throw zero("float modulo");
        }
        double rest = a % b;
        if (rest != 0) {
            return rest < 0 == b < 0 ? rest : rest + b;
        }
        return Math.copySign(0.0, b);
    }

    private static Object power(Object a, Object b, boolean integers) {
        if (integers && big(b).signum() >= 0) {
            BigInteger base = big(a);
            if (base.bitLength() <= 1 && base.abs().compareTo(BigInteger.ONE) <= 0) {
                boolean odd = big(b).testBit(0);
                return big(b).signum() == 0 ? 1L : base.signum() < 0 && !odd ? 1L : norm(base);
            }
            if (big(b).bitLength() > Integer.SIZE - 1
                    || (long) (base.abs().bitLength() - 1) * big(b).intValue() > MAX_BITS) {
                throw Fault.limit("the template computes an integer of more than " + MAX_BITS + " bits");
            }
            return norm(base.pow(big(b).intValue()));
        }
        double base = real(a);
        double exponent = real(b);
        if (base == 0 && exponent < 0) {
            throw zero("0.0 cannot be raised to a negative power");
        }
        if (base < 0 && exponent != Math.rint(exponent)) {
            throw Fault.value("a negative number to a fractional power is complex, which templates do not have");
        }
        double power = Math.abs(base) == 1 && !Double.isNaN(exponent) ? base < 0 && exponent % 2 != 0 ? -1.0 : 1.0
                : base == 1 ? 1.0 : StrictMath.pow(base, exponent);
        if (Double.isInfinite(power) && !Double.isInfinite(base) && !Double.isInfinite(exponent)) {
            throw Fault.overflow("(34, 'Numerical result out of range')");
        }
        return power;
    }

    static Object negate(Object number) {
        return number instanceof Double d ? (Object) (-d) : norm(big(number).negate());
    }

    static Object plus(Object number) {
        return number instanceof Double ? number : norm(big(number));
    }

    static Object abs(Object number) {
        return number instanceof Double d ? (Object) Math.abs(d) : norm(big(number).abs());
    }

    /** -1, 0 or 1; 2 where one is NaN. Integers and floats compare exactly. */
    static int compare(Object a, Object b) {
        if (a instanceof Long x && b instanceof Long y) {
            return Long.compare(x, y);
        }
        if (isInteger(a) && isInteger(b)) {
            return big(a).compareTo(big(b));
        }
        double x = a instanceof Double d ? d : 0;
        double y = b instanceof Double d ? d : 0;
        if (Double.isNaN(x) || Double.isNaN(y)) {
            return 2;
        }
        if (Double.isInfinite(x) || Double.isInfinite(y)) {
            return Double.compare(x, y);
        }
        return decimal(a).compareTo(decimal(b));
    }

    static BigDecimal decimal(Object number) {
        return number instanceof Double d ? new BigDecimal(d) : new BigDecimal(big(number));
    }

    /** {@code int(float)}. */
    static Object truncate(double value) {
        if (Double.isNaN(value)) {
            throw Fault.value("cannot convert float NaN to integer");
        }
        if (Double.isInfinite(value)) {
            throw Fault.overflow("cannot convert float infinity to integer");
        }
        return norm(new BigDecimal(value).toBigInteger());
    }

    /** {@code int(text, base)}. */
    static Object parseInteger(String text, int base) {
        String digits = Unicode.stripStart(Unicode.stripEnd(text, Unicode::isSpace), Unicode::isSpace);
        boolean negative = digits.startsWith("-");
        if (negative || digits.startsWith("+")) {
            digits = digits.substring(1);
        }
        int radix = base;
        String prefix = digits.length() > 1 ? Unicode.lower(digits.substring(0, 2)) : "";
        int prefixed = switch (prefix) {
            case "0x" -> 16;
            case "0o" -> 8;
            case "0b" -> 2;
            default -> 0;
        };
        if (prefixed != 0 && (base == 0 || base == prefixed)) {
            radix = prefixed;
            digits = digits.substring(digits.startsWith("_", 2) ? 3 : 2);
        } else if (base == 0) {
            radix = 10;
        }
        if (radix < 2 || radix > 36) {
            throw Fault.value("int() base must be >= 2 and <= 36, or 0");
        }
        if (!digits.matches("[\\p{Nd}a-zA-Z]+(_[\\p{Nd}a-zA-Z]+)*") || digits.length() > MAX_DIGITS) {
            throw Fault.value("invalid literal for int() with base " + base + ": " + Repr.quote(text));
        }
        try {
            BigInteger value = new BigInteger(digits.replace("_", ""), radix);
            return norm(negative ? value.negate() : value);
        } catch (NumberFormatException notInBase) {
            throw Fault.value("invalid literal for int() with base " + base + ": " + Repr.quote(text));
        }
    }

    /** {@code float(text)}. */
    static double parseReal(String text) {
        String digits = Unicode.lower(Unicode.stripStart(Unicode.stripEnd(text, Unicode::isSpace), Unicode::isSpace));
        if (digits.matches("[+-]?(inf|infinity|nan)")) {
            double value = digits.endsWith("nan") ? Double.NaN : Double.POSITIVE_INFINITY;
            return digits.startsWith("-") ? -value : value;
        }
        String part = "[0-9]+(?:_[0-9]+)*+";
        if (!digits.matches("[+-]?(?:" + part + "\\.?(?:" + part + ")?|\\." + part + ")(?:e[+-]?" + part + ")?")) {
            throw Fault.value("could not convert string to float: " + Repr.quote(text));
        }
        return Double.parseDouble(digits.replace("_", ""));
    }
}
