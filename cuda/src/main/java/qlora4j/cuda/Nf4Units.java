package qlora4j.cuda;

import qlora4j.blockwise.QuantConfig;

/** What the host knows of {@code nf4_units.cuh}: which matrices can be read by units, and how much room that takes. */
final class Nf4Units {
    /** The table of pairs of values, with 16 units of codes between. */
    static final int TABLE_BYTES = 256 * 256;
    /** What a unit's constants are made of, and they themselves. */
    static final int CONSTANT_BYTES = 32 * 4 + 64 * 4;

    private static final int COLUMNS = 256;
    private static final int BLOCKSIZE = 64;

    private Nf4Units() {
    }

    /** Whether a matrix with {@code in} columns can be read so. */
    static boolean takes(int in, QuantConfig config) {
        return in % COLUMNS == 0 && config.blocksize() == BLOCKSIZE && config.nested();
    }
}
