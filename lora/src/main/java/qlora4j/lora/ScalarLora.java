package qlora4j.lora;

import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/** The reference's element-wise steps: plain loops, elements read and written through their type. */
final class ScalarLora extends ComposedLora {
    @Override
    void addRows(Tensor y, Tensor residual, Tensor bias) {
        int n = y.cols();
        for (long i = 0; i < y.size(); i++) {
            double v = y.get(i);
            if (bias != null) {
                v += bias.get(i % n);
            }
            if (residual != null) {
                v += residual.get(i);
            }
            y.set(i, v);
        }
    }

    @Override
    void dropout(Dropout d, int module, Tensor x, Tensor out, boolean add) {
        int n = x.cols();
        int step = (int) d.step().get(0);
        int[] words = new int[4];
        for (int i = 0; i < x.rows(); i++) {
            int position = (int) d.position().get(i);
            int sample = (int) d.sample().get(i);
            for (int j = 0; j < n; j++) {
                if (j % 4 == 0) {
                    Philox.words(d.seed(), Dropout.counter(j / 4, module), position, sample, step, words);
                }
                long at = (long) i * n + j;
                double v = Philox.unit(words[j % 4]) >= d.p() ? x.get(at) * d.scale() : 0;
                out.set(at, add ? out.get(at) + v : v);
            }
        }
    }

    @Override
    void sumRows(Tensor dy, Tensor dBias) {
        int n = dy.cols();
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int i = 0; i < dy.rows(); i++) {
                sum += dy.get((long) i * n + j);
            }
            dBias.set(j, dBias.get(j) + sum);
        }
    }
}
