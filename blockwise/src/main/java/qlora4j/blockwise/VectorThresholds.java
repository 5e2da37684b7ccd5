package qlora4j.blockwise;

import java.util.Arrays;

/**
 * Tables that count the thresholds that a number in -1..1 exceeds with one comparison. The interval is cut into cells so
 * narrow that none holds two thresholds; then the count is that of the thresholds in lower cells, plus one where the number exceeds
 * its own cell's. Finding the cell rounds, but never puts a larger number into a lower cell, so the count is exact.
 */
final class VectorThresholds {
    /** Entries of a table: cells -15 to 15, by their lower five bits. */
    private static final int SIZE = 32;
    /** Cells on either side of 0. */
    static final int HALF = 15;
    /** Added to a number of cells, its sum's last bits are the nearest cell; all operands must be finite. */
    static final float TO_INTEGER = 0x1.8p23f;

    /** The bits of the threshold in each cell, or infinity's. */
    final int[] threshold = new int[SIZE];
    /** How many thresholds lie in lower cells. */
    final int[] below = new int[SIZE];

    /** @param thresholds ascending, in -1..1 */
    VectorThresholds(float[] thresholds) {
        Arrays.fill(threshold, Float.floatToRawIntBits(Float.POSITIVE_INFINITY));
        int count = 0;
        for (int cell = -HALF; cell <= HALF; cell++) {
            int at = cell & SIZE - 1;
            below[at] = count;
            if (count < thresholds.length && of(thresholds[count]) == at) {
                threshold[at] = Float.floatToRawIntBits(thresholds[count++]);
            }
        }
        if (count < thresholds.length) {
            throw new IllegalArgumentException("two thresholds in one cell at " + thresholds[count]);
        }
    }

    private static int of(float x) {
        return Float.floatToRawIntBits(Math.fma(x, HALF, TO_INTEGER)) & SIZE - 1;
    }
}
