package qlora4j.optim;

import java.util.Random;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Tensors for tests, compared by their bits. */
final class Bits {
    private Bits() {
    }

    /** The elements' bits, every NaN as the same. */
    static long[] of(Tensor t) {
        long[] bits = new long[Math.toIntExact(t.size())];
        for (int i = 0; i < bits.length; i++) {
            bits[i] = t.dtype() == DType.F32
                    ? Float.floatToIntBits((float) t.get(i))
                    : Double.doubleToLongBits(t.get(i));
        }
        return bits;
    }

    static Tensor copy(Tensor t) {
        return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
    }

    static Tensor normal(DType dtype, long seed, int n, double scale) {
        Random random = new Random(seed);
        Tensor t = Tensor.zeros(dtype, n);
        for (int i = 0; i < n; i++) {
            t.set(i, scale * random.nextGaussian());
        }
        return t;
    }

    /** The scalars that {@link AdamW#prepare} and clipping leave at a step of the given learning rate. */
    static Tensor scalars(double learningRate, double c1, double c2, double clipScale) {
        Tensor s = Tensor.zeros(DType.F64, OptimScalars.SIZE);
        s.set(OptimScalars.LEARNING_RATE, learningRate);
        s.set(OptimScalars.CORRECTION1, c1);
        s.set(OptimScalars.CORRECTION2, c2);
        s.set(OptimScalars.GRAD_SCALE, 1);
        s.set(OptimScalars.CLIP_SCALE, clipScale);
        return s;
    }
}
