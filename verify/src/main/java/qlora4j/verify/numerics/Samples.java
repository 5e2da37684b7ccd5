package qlora4j.verify.numerics;

import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/**
 * Seeded inputs: float32 numbers, held in a type.
 *
 * @param rows of activations
 * @param seed tells runs apart
 * @param type that holds them: float64 for what is exact
 * @param absolute whether they are replaced by their absolute values, for magnitudes
 */
record Samples(int rows, int seed, DType type, boolean absolute) {
    private static final int PURPOSE = 0x6e756d;

    /** Normal numbers of the given deviation; {@code item} tells tensors apart. */
    Tensor normal(int item, double deviation, long... shape) {
        return normal(type, absolute, item, deviation, shape);
    }

    /** The same with their signs. */
    Tensor signed(int item, double deviation, long... shape) {
        return normal(type, false, item, deviation, shape);
    }

    /** The same in float32, for what is quantized. */
    Tensor float32(int item, double deviation, long... shape) {
        return normal(DType.F32, false, item, deviation, shape);
    }

    private Tensor normal(DType as, boolean positive, int item, double deviation, long... shape) {
        Philox.Sequence rng = new Philox.Sequence(seed, PURPOSE, item);
        Tensor t = Tensor.zeros(as, shape);
        for (long i = 0; i < t.size(); i++) {
            float x = (float) (deviation * rng.nextGaussian());
            t.set(i, positive ? Math.abs(x) : x);
        }
        return t;
    }

    /** Integers from 0 to {@code bound}, exclusive. */
    Tensor ints(int item, int bound, int count) {
        Philox.Sequence rng = new Philox.Sequence(seed, PURPOSE, item);
        Tensor t = Tensor.zeros(DType.I32, count);
        for (int i = 0; i < count; i++) {
            t.set(i, rng.nextInt(bound));
        }
        return t;
    }
}
