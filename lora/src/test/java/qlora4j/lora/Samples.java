package qlora4j.lora;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Tensors and layers to test with. */
final class Samples {
    private Samples() {
    }

    /** Normal numbers that depend on {@code seed} and the index alone. */
    static Tensor random(int seed, DType type, long... shape) {
        Tensor t = Tensor.zeros(type, shape);
        Philox.Sequence rng = new Philox.Sequence(seed, 0, 0);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, rng.nextGaussian());
        }
        return t;
    }

    /** An output that was never written shows as NaN. */
    static Tensor poison(DType type, long... shape) {
        return Tensor.zeros(type, shape).fill(Double.NaN);
    }

    static Tensor magnitudes(Tensor t) {
        if (t == null) {
            return null;
        }
        Tensor out = Tensor.zeros(t.dtype(), t.shape());
        for (long i = 0; i < t.size(); i++) {
            out.set(i, Math.abs(t.get(i)));
        }
        return out;
    }

    static LinearWeight quantized(Stream s, Tensor w) {
        return new LinearWeight.Quantized(Blockwise.quantize(s, w, QuantConfig.QLORA));
    }

    /** The weight as numbers, dequantized where it is quantized. */
    static Tensor dense(Stream s, LinearWeight weight, DType type) {
        return switch (weight) {
            case LinearWeight.Dense d -> d.w();
            case LinearWeight.Quantized q -> {
                Tensor out = poison(type, q.outFeatures(), q.inFeatures());
                Blockwise.dequantize(s, q.w(), out);
                yield out;
            }
        };
    }

    /** A dropout whose rows are samples of three positions each, beginning with sample 5. */
    static Dropout dropout(double p, int rows) {
        int[] sample = new int[rows];
        int[] position = new int[rows];
        for (int i = 0; i < rows; i++) {
            sample[i] = 5 + i / 3;
            position[i] = i % 3;
        }
        return new Dropout(p, 0x123456789abcdefL, Tensor.of(new int[]{7}, 1), Tensor.of(sample, rows),
                Tensor.of(position, rows));
    }
}
