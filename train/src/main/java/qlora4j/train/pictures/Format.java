package qlora4j.train.pictures;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** A 4-bit format of weights in blocks that share a float32 constant, their largest magnitude. */
public enum Format {
    /** NormalFloat. */
    NF4 {
        @Override
        double squaredError(Stream stream, float[] w, int blocksize) {
            return coded(stream, w, new QuantConfig(QuantType.NF4, blocksize, false));
        }
    },
    /** Floating point with a sign, two bits of exponent and one of mantissa. */
    FP4 {
        @Override
        double squaredError(Stream stream, float[] w, int blocksize) {
            return coded(stream, w, new QuantConfig(QuantType.FP4, blocksize, false));
        }
    },
    /** The integers from -7 to 7, times a seventh of the constant. */
    INT4 {
        @Override
        double squaredError(Stream stream, float[] w, int blocksize) {
            double sum = 0;
            for (int from = 0; from < w.length; from += blocksize) {
                int to = Math.min(w.length, from + blocksize);
                double step = absmax(w, from, to) / INT_MOST;
                for (int i = from; i < to && step > 0; i++) {
                    double d = w[i] - step * Math.rint(w[i] / step);
                    sum += d * d;
                }
            }
            return sum;
        }
    };

    private static final double INT_MOST = 7;

    /**
     * The sum of the squared differences between weights and their values after quantization.
     *
     * @param stream of a backend on the host
     */
    abstract double squaredError(Stream stream, float[] w, int blocksize);

    static float absmax(float[] w, int from, int to) {
        float most = 0;
        for (int i = from; i < to; i++) {
            most = Math.max(most, Math.abs(w[i]));
        }
        return most;
    }

    private static double coded(Stream stream, float[] w, QuantConfig config) {
        Tensor x = Tensor.of(w, 1, w.length);
        QuantizedTensor q = Blockwise.quantize(stream, x, config);
        Tensor back = Tensor.zeros(DType.F32, 1, w.length);
        Blockwise.dequantize(stream, q, back);
        float[] values = back.toFloats();
        double sum = 0;
        for (int i = 0; i < w.length; i++) {
            double d = (double) w[i] - values[i];
            sum += d * d;
        }
        return sum;
    }
}
