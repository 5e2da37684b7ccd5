package qlora4j.nf4;

/**
 * A 4-bit data type: 16 values, and the thresholds that decide which of them stands for a number in -1..1.
 *
 * <p>The code of {@code x} is found by counting the thresholds that {@code x} strictly exceeds, which gives the rank of
 * a value. {@link #NF4} counts signed thresholds and its codes are the ranks; {@link #FP4} counts thresholds of
 * {@code |x|}, its codes are bit patterns whose order is not that of the values, and bit 3 is set where {@code x < 0}.
 * A NaN exceeds nothing: code 0. The negative zero is a zero.
 *
 * <p>Thresholds and FP4 bit patterns are those of bitsandbytes' kernels. The thresholds of NF4 are nearly the midpoints
 * of its values; four of them (0, 8, 12, 14) differ by an ulp from the midpoint computed in float and from the literal
 * read as a double, so they stand as float literals with all their digits.
 */
public final class Codebook {
    /** 4-bit NormalFloat. */
    public static final Codebook NF4 = new Codebook("nf4", NormalFloat.values(4), new float[]{
            -0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f,
            -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
            0.1202552504837513f, 0.2035212516784668f, 0.2920137718319893f, 0.3893125355243683f,
            0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f}, false);

    /** 4-bit floating point: sign, and eight magnitudes. */
    public static final Codebook FP4 = new Codebook("fp4", fp4Values(), new float[]{
            0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f}, true);

    /** Number of codes. */
    public static final int SIZE = 16;

    private static final int SIGN_BIT = 8;

    private final String name;
    private final float[] values;
    private final float[] thresholds;
    private final boolean signMagnitude;
    private final long codesByRank;
    private final int zeroCode;

    private Codebook(String name, float[] values, float[] thresholds, boolean signMagnitude) {
        this.name = name;
        this.values = values;
        this.thresholds = thresholds;
        this.signMagnitude = signMagnitude;
        this.codesByRank = codesByRank(values, thresholds.length + 1);
        this.zeroCode = code(0f);
    }

    /** The magnitudes of codes 0 to 7 are twelfths; codes 8 to 15 are their negatives. */
    private static float[] fp4Values() {
        float[] twelfths = {0, 0.0625f, 8, 12, 4, 6, 2, 3};
        float[] values = new float[SIZE];
        for (int i = 0; i < SIGN_BIT; i++) {
            values[i] = twelfths[i] / 12;
            values[i + SIGN_BIT] = -values[i];
        }
        return values;
    }

    /** The code of each rank as one nibble, rank 0 lowest: the order of the first {@code count} values. */
    private static long codesByRank(float[] values, int count) {
        long packed = 0;
        for (int code = 0; code < count; code++) {
            int rank = 0;
            for (int other = 0; other < count; other++) {
                if (values[other] < values[code]) {
                    rank++;
                }
            }
            packed |= (long) code << (4 * rank);
        }
        return packed;
    }

    /** {@code nf4} or {@code fp4}, as in checkpoints. */
    public String name() {
        return name;
    }

    /** The value of a code, 0 to 15. Code 8 of FP4 is -0. */
    public float value(int code) {
        return values[code];
    }

    /** A copy of the 16 values in the order of their codes. */
    public float[] values() {
        return values.clone();
    }

    /** A copy of the thresholds, ascending: 15 of x, or 7 of |x| where {@link #signMagnitude}. */
    public float[] thresholds() {
        return thresholds.clone();
    }

    /** The 16 values as bitsandbytes' checkpoints list them ({@code quant_map}): every zero is positive. */
    public float[] quantMap() {
        float[] map = values();
        for (int i = 0; i < map.length; i++) {
            map[i] += 0f;
        }
        return map;
    }

    /** Whether thresholds are compared with the magnitude and bit 3 of a code is the sign. */
    public boolean signMagnitude() {
        return signMagnitude;
    }

    /** The code of each rank as one nibble, rank 0 lowest. */
    public long codesByRank() {
        return codesByRank;
    }

    /** The code of 0, which also fills an odd tail's unused nibble: 7 for NF4, 0 for FP4. */
    public int zeroCode() {
        return zeroCode;
    }

    /** The code of a normalized number. */
    public int code(float x) {
        float compared = signMagnitude ? Math.abs(x) : x;
        int rank = 0;
        for (float t : thresholds) {
            if (compared > t) {
                rank++;
            }
        }
        int code = (int) (codesByRank >>> (4 * rank)) & 0xf;
        return signMagnitude && x < 0 ? code | SIGN_BIT : code;
    }

    @Override
    public String toString() {
        return name;
    }
}
