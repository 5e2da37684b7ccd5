package qlora4j.tensor;

/**
 * The counter-based random generator Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC11). A number is a pure function of key and counter, so it is the same on every backend, for every split
 * of the work, and again under recomputation.
 */
public final class Philox {
    public static final int M0 = 0xD2511F53;
    public static final int M1 = 0xCD9E8D57;
    public static final int W0 = 0x9E3779B9;
    public static final int W1 = 0xBB67AE85;
    public static final int ROUNDS = 10;

    private Philox() {
    }

    /** Writes the four 32-bit words of counter (c0, c1, c2, c3) under {@code key} to {@code out[0..3]}. */
    public static void words(long key, int c0, int c1, int c2, int c3, int[] out) {
        int k0 = (int) key;
        int k1 = (int) (key >>> 32);
        for (int round = 0; round < ROUNDS; round++) {
            long p0 = (M0 & 0xffffffffL) * (c0 & 0xffffffffL);
            long p1 = (M1 & 0xffffffffL) * (c2 & 0xffffffffL);
            c0 = (int) (p1 >>> 32) ^ c1 ^ k0;
            c2 = (int) (p0 >>> 32) ^ c3 ^ k1;
            c1 = (int) p1;
            c3 = (int) p0;
            k0 += W0;
            k1 += W1;
        }
        out[0] = c0;
        out[1] = c1;
        out[2] = c2;
        out[3] = c3;
    }

    /** A float in [0, 1) from the upper 24 bits of a word. */
    public static float unit(int word) {
        return (word >>> 8) * 0x1p-24f;
    }

    /** A sequence of numbers under one key and a purpose of its own. Not thread-safe; cheap to make. */
    public static final class Sequence {
        private final long key;
        private final int purpose;
        private final int item;
        private final int[] block = new int[4];
        private long drawn;

        /** The sequence number {@code item} of {@code purpose} (any fixed number that tells uses apart). */
        public Sequence(long seed, int purpose, int item) {
            this.key = seed;
            this.purpose = purpose;
            this.item = item;
        }

        public int nextInt() {
            int lane = (int) (drawn & 3);
            if (lane == 0) {
                long at = drawn >>> 2;
                words(key, (int) at, (int) (at >>> 32), item, purpose, block);
            }
            drawn++;
            return block[lane];
        }

        /** A float in [0, 1). */
        public float nextFloat() {
            return unit(nextInt());
        }

        /** A double in [0, 1) of 53 random bits. */
        public double nextDouble() {
            long high = nextInt() & 0xffffffffL;
            return ((high << 32 | nextInt() & 0xffffffffL) >>> 11) * 0x1p-53;
        }

        /** An int in [0, bound), without bias. */
        public int nextInt(int bound) {
            long limit = 0x1_0000_0000L / bound * bound;
            long draw = nextInt() & 0xffffffffL;
            while (draw >= limit) {
                draw = nextInt() & 0xffffffffL;
            }
            return (int) (draw % bound);
        }

        /** A normal deviate (Box and Muller). */
        public double nextGaussian() {
            double u = 1 - nextDouble();
            return StrictMath.sqrt(-2 * StrictMath.log(u)) * StrictMath.cos(2 * StrictMath.PI * nextDouble());
        }

        /** A random permutation of 0 to n - 1 (Fisher and Yates). */
        public int[] permutation(int n) {
            int[] p = new int[n];
            for (int i = 0; i < n; i++) {
                int j = nextInt(i + 1);
                p[i] = p[j];
                p[j] = i;
            }
            return p;
        }
    }
}
