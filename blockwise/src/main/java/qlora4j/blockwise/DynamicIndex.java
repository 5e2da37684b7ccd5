package qlora4j.blockwise;

import java.util.Arrays;

/**
 * Finds the codes of a {@link DynamicMap} from the upper bits of a float: a table tells the code of the least number
 * that has them, and few thresholds, mostly none or one, lie between it and the number itself.
 */
final class DynamicIndex {
    /** Bits that are not looked at: sign, exponent and six bits of the mantissa remain. */
    private static final int SHIFT = 17;
    private static final DynamicIndex[] OF = new DynamicIndex[DynamicMap.values().length];

    private final byte[] first = new byte[1 << (Integer.SIZE - SHIFT)];
    /** The map's thresholds and, for the last code, infinity. */
    private final float[] thresholds;

    private DynamicIndex(DynamicMap map) {
        thresholds = Arrays.copyOf(map.thresholds(), DynamicMap.SIZE);
        thresholds[DynamicMap.SIZE - 1] = Float.POSITIVE_INFINITY;
        for (int upper = 0; upper < first.length; upper++) {
            float nearest = Float.intBitsToFloat(upper << SHIFT);
            float farthest = Float.intBitsToFloat(upper << SHIFT | (1 << SHIFT) - 1);
            // Among infinities and NaN the search begins with code 0, which is that of NaN.
            if (Float.isFinite(farthest)) {
                first[upper] = (byte) map.code(Math.min(nearest, farthest));
            }
        }
    }

    static synchronized DynamicIndex of(DynamicMap map) {
        if (OF[map.ordinal()] == null) {
            OF[map.ordinal()] = new DynamicIndex(map);
        }
        return OF[map.ordinal()];
    }

    /** See {@link DynamicMap#code}. */
    int code(float x) {
        int code = first[Float.floatToRawIntBits(x) >>> SHIFT] & 0xff;
        while (x > thresholds[code]) {
            code++;
        }
        return code;
    }
}
