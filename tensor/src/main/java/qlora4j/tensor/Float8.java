package qlora4j.tensor;

/**
 * The 8-bit float formats of the OCP specification and their FNUZ variants, widened to float (exact).
 */
final class Float8 {
    private Float8() {
    }

    static float toFloat(DType type, byte raw) {
        int bits = raw & 0xff;
        return switch (type) {
            case F8_E4M3 -> (bits & 0x7f) == 0x7f ? Float.NaN : decode(bits, 4, 3, 7);
            case F8_E5M2 -> e5m2(bits);
            case F8_E8M0 -> bits == 0xff ? Float.NaN : Math.scalb(1f, bits - 127);
            case F8_E4M3FNUZ -> bits == 0x80 ? Float.NaN : decode(bits, 4, 3, 8);
            case F8_E5M2FNUZ -> bits == 0x80 ? Float.NaN : decode(bits, 5, 2, 16);
            default -> throw new IllegalArgumentException(type + " is not an 8-bit float");
        };
    }

    private static float e5m2(int bits) {
        // The upper byte of an IEEE half.
        return Float.float16ToFloat((short) (bits << 8));
    }

    private static float decode(int bits, int exponentBits, int mantissaBits, int bias) {
        int mantissa = bits & (1 << mantissaBits) - 1;
        int exponent = bits >>> mantissaBits & (1 << exponentBits) - 1;
        float magnitude = exponent == 0
                ? Math.scalb((float) mantissa, 1 - bias - mantissaBits)
                : Math.scalb((float) (mantissa | 1 << mantissaBits), exponent - bias - mantissaBits);
        return (bits & 0x80) != 0 ? -magnitude : magnitude;
    }
}
