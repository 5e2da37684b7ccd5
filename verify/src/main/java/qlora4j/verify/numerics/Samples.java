package qlora4j.verify.numerics;

import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/**
 * Seeded inputs: numbers of one type, held in that or a wider one.
 *
 * @param rows of activations
 * @param seed tells runs apart
 * @param values float32 or bfloat16: what activations are rounded to
 * @param type that holds them: {@code values}, or float64 for what is exact
 * @param absolute whether they are replaced by their absolute values, for magnitudes
 */
record Samples(int rows, int seed, DType values, DType type, boolean absolute) {
    private static final int PURPOSE = 0x6e756d;

    /** What parameters, their gradients and statistics are held in: float32 beside bfloat16 activations. */
    DType wide() {
        return type == DType.F64 ? DType.F64 : DType.F32;
    }

    /** Activations: normal numbers of the given deviation; {@code item} tells tensors apart. */
    Tensor normal(int item, double deviation, long... shape) {
        return normal(type, values, absolute, item, deviation, shape);
    }

    /** The same with their signs. */
    Tensor signed(int item, double deviation, long... shape) {
        return normal(type, values, false, item, deviation, shape);
    }

    /** Parameters: the same, float32 numbers in the {@link #wide} type. */
    Tensor parameters(int item, double deviation, long... shape) {
        return normal(wide(), DType.F32, absolute, item, deviation, shape);
    }

    /** The same in float32 with their signs, for what is quantized. */
    Tensor float32(int item, double deviation, long... shape) {
        return normal(DType.F32, DType.F32, false, item, deviation, shape);
    }

    /** This run's numbers as they are, with their signs. */
    Samples signed() {
        return new Samples(rows, seed, values, type, false);
    }

    private Tensor normal(DType as, DType rounded, boolean positive, int item, double deviation, long... shape) {
        Philox.Sequence rng = new Philox.Sequence(seed, PURPOSE, item);
        Tensor t = Tensor.zeros(rounded, shape);
        for (long i = 0; i < t.size(); i++) {
            double x = deviation * rng.nextGaussian();
            t.set(i, positive ? Math.abs(x) : x);
        }
        return Tensor.zeros(as, shape).copyFrom(t);
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
