package qlora4j.blockwise;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The equation, summed in double. */
final class ScalarExactInt8 implements ExactInt8Kernels {
    @Override
    public void matmul(Stream stream, Tensor x, ExactInt8 w, Tensor y) {
        int in = w.cols();
        int out = w.rows();
        for (int m = 0; m < x.rows(); m++) {
            for (int o = 0; o < out; o++) {
                double sum = 0;
                for (int i = 0; i < in; i++) {
                    long at = (long) o * in + i;
                    sum += x.get((long) m * in + i) * w.codes().get(at) * w.scales().get(at / ExactInt8.BLOCK);
                }
                y.set((long) m * out + o, sum);
            }
        }
    }
}
