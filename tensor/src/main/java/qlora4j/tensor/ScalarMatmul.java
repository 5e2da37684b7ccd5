package qlora4j.tensor;

/** The reference products: plain loops, sums in double, elements read and written through their type. */
final class ScalarMatmul implements MatmulKernels {
    @Override
    public void nt(Stream s, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        int m = x.rows();
        int n = w.rows();
        int k = x.cols();
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int p = 0; p < k; p++) {
                    sum += x.get((long) i * k + p) * w.get((long) j * k + p);
                }
                store(y, (long) i * n + j, alpha * sum, accumulate);
            }
        }
    }

    @Override
    public void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate) {
        int m = dy.rows();
        int n = dy.cols();
        int k = w.cols();
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < k; j++) {
                double sum = 0;
                for (int p = 0; p < n; p++) {
                    sum += dy.get((long) i * n + p) * w.get((long) p * k + j);
                }
                store(dx, (long) i * k + j, alpha * sum, accumulate);
            }
        }
    }

    @Override
    public void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate) {
        int m = dy.rows();
        int n = dy.cols();
        int k = x.cols();
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < k; j++) {
                double sum = 0;
                for (int p = 0; p < m; p++) {
                    sum += dy.get((long) p * n + i) * x.get((long) p * k + j);
                }
                store(dw, (long) i * k + j, alpha * sum, accumulate);
            }
        }
    }

    private static void store(Tensor out, long at, double value, boolean accumulate) {
        out.set(at, accumulate ? out.get(at) + value : value);
    }
}
