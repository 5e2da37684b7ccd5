package qlora4j.template;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.math.RoundingMode;

/** Floats as C's {@code printf} writes them: digits of the exact binary value, ties to even. */
final class NumberFormat {

    /** The most digits that a precision can ask for. */
    static final int MAX_PRECISION = 1000;

    private NumberFormat() {
    }

    /**
     * Formats the magnitude of a float.
     *
     * @param type      {@code f}, {@code e} or {@code g}, in upper case for an upper case result
     * @param precision digits after the point ({@code f}, {@code e}), significant digits ({@code g})
     * @param alternate whether the point and trailing zeros are always written
     */
    static String magnitude(double value, char type, int precision, boolean alternate) {
        if (precision > MAX_PRECISION) {
            throw Fault.limit("a precision of more than " + MAX_PRECISION + " digits");
        }
        String text = Double.isNaN(value) ? "nan"
                : Double.isInfinite(value) ? "inf"
                        : finite(Math.abs(value),
                                Character.toLowerCase(type), precision, alternate);
        return Character.isUpperCase(type) ? Unicode.upper(text) : text;
    }

    private static String finite(double value, char type, int precision, boolean alternate) {
        BigDecimal exact = new BigDecimal(value);
        return switch (type) {
            case 'f' -> exact.setScale(precision, RoundingMode.HALF_EVEN).toPlainString()
                    + (alternate && precision == 0 ? "." : "");
            case 'e' -> scientific(exact, precision, alternate);
            default -> general(exact, Math.max(1, precision), alternate);
        };
    }

    private static BigDecimal rounded(BigDecimal exact, int digits) {
        return exact.round(new MathContext(digits, RoundingMode.HALF_EVEN));
    }

    private static int exponent(BigDecimal value) {
        return value.signum() == 0 ? 0 : value.precision() - 1 - value.scale();
    }

    private static String scientific(BigDecimal exact, int precision, boolean alternate) {
        BigDecimal value = rounded(exact, precision + 1);
        int exponent = exponent(value);
        String digits = value.signum() == 0 ? "0" : value.unscaledValue().toString();
        digits = digits.length() > precision + 1 ? digits.substring(0, precision + 1)
                : digits + "0".repeat(precision + 1 - digits.length());
        String point = precision > 0 || alternate ? "." : "";
        return digits.charAt(0) + point + digits.substring(1) + power(exponent);
    }

    private static String power(int exponent) {
        return "e" + (exponent < 0 ? "-" : "+") + (Math.abs(exponent) < 10 ? "0" : "") + Math.abs(exponent);
    }

    private static String general(BigDecimal exact, int precision, boolean alternate) {
        int exponent = exponent(rounded(exact, precision));
        boolean plain = exponent >= -4 && exponent < precision;
        String text = plain ? exact.setScale(precision - 1 - exponent, RoundingMode.HALF_EVEN).toPlainString()
                : scientific(exact, precision - 1, alternate);
        if (alternate) {
            return text.indexOf('.') < 0 ? text + "." : text;
        }
        int tail = text.indexOf('e') < 0 ? text.length() : text.indexOf('e');
        String digits = text.substring(0, tail);
        if (digits.indexOf('.') >= 0) {
            digits = digits.replaceAll("0+$", "").replaceAll("\\.$", "");
        }
        return digits + text.substring(tail);
    }

    /** The digits of an integer's magnitude in base 2, 8, 10 or 16. */
    static String digits(BigInteger integer, int radix) {
        return radix == 10 ? Repr.digits(integer.abs()) : integer.abs().toString(radix);
    }
}
