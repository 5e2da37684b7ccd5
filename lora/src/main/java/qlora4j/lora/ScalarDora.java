package qlora4j.lora;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The reference of {@link DoraKernels}: plain loops, elements read and written through their type. */
final class ScalarDora implements DoraKernels {
    private final ScalarLora lora = new ScalarLora();

    @Override
    public void rowSquares(Stream s, Tensor w, Tensor squares) {
        for (int j = 0; j < w.rows(); j++) {
            double sum = 0;
            for (int k = 0; k < w.cols(); k++) {
                double v = w.get((long) j * w.cols() + k);
                sum += v * v;
            }
            squares.set(j, sum);
        }
    }

    @Override
    public void gain(Stream s, Tensor squares, Tensor wa, Tensor aa, Tensor b, double scale, Tensor magnitude,
            Tensor norm, Tensor gain) {
        for (int j = 0; j < b.rows(); j++) {
            double n = Math.sqrt(Math.max(0, normSquare(j, squares, wa, aa, b, scale)));
            norm.set(j, n);
            gain.set(j, norm.get(j) == 0 ? 1 : magnitude.get(j) / norm.get(j));
        }
    }

    static double normSquare(int j, Tensor squares, Tensor wa, Tensor aa, Tensor b, double scale) {
        int r = b.cols();
        double linear = 0;
        double quadratic = 0;
        for (int k = 0; k < r; k++) {
            double bk = b.get((long) j * r + k);
            linear += bk * wa.get((long) k * wa.cols() + j);
            double inner = 0;
            for (int l = 0; l < r; l++) {
                inner += aa.get((long) k * r + l) * b.get((long) j * r + l);
            }
            quadratic += bk * inner;
        }
        return squares.get(j) + 2 * scale * linear + scale * scale * quadratic;
    }

    @Override
    public void scaleColumns(Stream s, Tensor x, Tensor gain, double shift, Tensor residual, Tensor bias, Tensor out) {
        int n = x.cols();
        for (long i = 0; i < x.size(); i++) {
            double v = ((gain == null ? 1 : gain.get(i % n)) + shift) * x.get(i);
            v += residual == null ? 0 : residual.get(i);
            out.set(i, v + (bias == null ? 0 : bias.get(i % n)));
        }
    }

    @Override
    public void sumColumns(Stream s, Tensor dy, Tensor z, Tensor norm, Tensor sum) {
        int n = dy.cols();
        for (int j = 0; j < n; j++) {
            double total = 0;
            for (int i = 0; i < dy.rows(); i++) {
                long at = (long) i * n + j;
                total += dy.get(at) * (z == null ? 1 : z.get(at));
            }
            double divisor = norm == null ? 1 : norm.get(j);
            sum.set(j, sum.get(j) + (divisor == 0 ? 0 : total / divisor));
        }
    }

    @Override
    public void dropout(Stream s, Dropout d, int module, Tensor x, Tensor out, boolean add) {
        lora.dropout(d, module, x, out, add);
    }
}
