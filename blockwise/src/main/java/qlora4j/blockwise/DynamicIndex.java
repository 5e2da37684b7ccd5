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

    /** The most thresholds that lie behind the least number of any upper bits. */
    private final int steps;

    private DynamicIndex(DynamicMap map) {
        thresholds = Arrays.copyOf(map.thresholds(), DynamicMap.SIZE);
        thresholds[DynamicMap.SIZE - 1] = Float.POSITIVE_INFINITY;
        int most = 0;
        for (int upper = 0; upper < first.length; upper++) {
            float nearest = Float.intBitsToFloat(upper << SHIFT);
            float farthest = Float.intBitsToFloat(upper << SHIFT | (1 << SHIFT) - 1);
            // Among infinities and NaN the search begins with code 0, which is that of NaN.
            if (Float.isFinite(farthest)) {
                int least = map.code(Math.min(nearest, farthest));
                first[upper] = (byte) least;
                most = Math.max(most, map.code(Math.max(nearest, farthest)) - least);
            }
        }
        steps = most;
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

    /**
     * The codes of {@code n} finite numbers. Which numbers exceed a threshold cannot be foretold, so that is computed, not
     * branched on: the difference's sign tells it, which subnormal numbers make exact.
     */
    void codes(float[] x, int n, byte[] codes) {
        for (int i = 0; i < n; i++) {
            int code = first[Float.floatToRawIntBits(x[i]) >>> SHIFT] & 0xff;
            for (int step = 0; step < steps; step++) {
                code += Float.floatToRawIntBits(thresholds[code] - x[i]) >>> Integer.SIZE - 1;
            }
            codes[i] = (byte) code;
        }
    }
}
