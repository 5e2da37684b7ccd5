package qlora4j.model;

import qlora4j.tensor.Team;

/** Float arrays that the threads of a team keep between calls, grown when a longer one is asked for. */
final class VectorScratch {
    private final float[][][] arrays;

    VectorScratch(Team team, int slots) {
        arrays = new float[team.size()][slots][0];
    }

    /** An array of at least {@code length} elements, its contents those of its last use. */
    float[] get(int worker, int slot, int length) {
        if (arrays[worker][slot].length < length) {
            arrays[worker][slot] = new float[length];
        }
        return arrays[worker][slot];
    }

    /** {@code n} rounded up to a multiple of {@code step}. */
    static int roundUp(int n, int step) {
        return (n + step - 1) / step * step;
    }
}
