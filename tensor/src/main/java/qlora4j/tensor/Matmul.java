package qlora4j.tensor;

/** Checks shapes, types and aliasing of dense products once, then calls the stream's {@link MatmulKernels}. */
public final class Matmul {
    private Matmul() {
    }

    /** {@code y [m, n] = alpha·x [m, k]·w [n, k]ᵀ}, added to {@code y} when {@code accumulate}. */
    public static void nt(Stream s, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        check("matmul nt", x.rows(), w.rows(), x.cols(), w.cols(), y, x, w);
        s.kernels(MatmulKernels.class).nt(s, x, w, alpha, y, accumulate);
    }

    /** {@link #nt} of several products as one operation. None may read what another writes. */
    public static void nt(Stream s, Tensor[] x, Tensor[] w, float[] alpha, Tensor[] y, boolean accumulate) {
        for (int i = 0; i < x.length; i++) {
            check("matmul nt", x[i].rows(), w[i].rows(), x[i].cols(), w[i].cols(), y[i], x[i], w[i]);
        }
        s.kernels(MatmulKernels.class).nt(s, x, w, alpha, y, accumulate);
    }

    /** {@code dx [m, k] = alpha·dy [m, n]·w [n, k]}, added to {@code dx} when {@code accumulate}. */
    public static void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate) {
        check("matmul nn", dy.rows(), w.cols(), dy.cols(), w.rows(), dx, dy, w);
        s.kernels(MatmulKernels.class).nn(s, dy, w, alpha, dx, accumulate);
    }

    /** {@code dw [n, k] = alpha·dy [m, n]ᵀ·x [m, k]}, added to {@code dw} when {@code accumulate}. */
    public static void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate) {
        check("matmul tn", dy.cols(), x.cols(), dy.rows(), x.rows(), dw, dy, x);
        s.kernels(MatmulKernels.class).tn(s, dy, x, alpha, dw, accumulate);
    }

    private static void check(String what, int m, int n, int inner, int innerToo, Tensor out, Tensor a, Tensor b) {
        if (inner != innerToo || out.rows() != m || out.cols() != n) {
            throw new IllegalArgumentException(what + ": " + a + " and " + b + " do not give " + out);
        }
        if (!a.dtype().isFloat() || !b.dtype().isFloat() || !out.dtype().isFloat()) {
            throw new IllegalArgumentException(what + " of " + a + " and " + b + " into " + out
                    + ": all must be floats");
        }
        Aliasing.checkDisjoint(what, out, a, b);
    }
}
