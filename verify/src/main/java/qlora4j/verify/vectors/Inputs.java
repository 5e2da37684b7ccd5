package qlora4j.verify.vectors;

import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/** Seeded inputs. */
final class Inputs {
    /** The seed of all vectors. */
    static final long SEED = 20260101;
    private static final int PURPOSE = 0x76656374;

    private Inputs() {
    }

    /** Normal numbers of the given deviation, rounded to {@code dtype}; {@code item} tells tensors apart. */
    static Tensor normal(DType dtype, int item, double deviation, long... shape) {
        Philox.Sequence rng = new Philox.Sequence(SEED, PURPOSE, item);
        Tensor t = Tensor.zeros(dtype, shape);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, deviation * rng.nextGaussian());
        }
        return t;
    }

    /** Integers from 0 to {@code bound}, exclusive. */
    static int[] ints(int item, int bound, int count) {
        Philox.Sequence rng = new Philox.Sequence(SEED, PURPOSE, item);
        int[] values = new int[count];
        for (int i = 0; i < count; i++) {
            values[i] = rng.nextInt(bound);
        }
        return values;
    }
}
