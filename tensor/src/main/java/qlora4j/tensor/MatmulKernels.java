package qlora4j.tensor;

/**
 * Products with dense matrices, the three that a linear layer {@code y = x·wᵀ} and its backward need. Shapes:
 * {@code x [m, k], w [n, k], y [m, n]}; all row-major and not overlapping. Called through {@link Matmul}, which checks.
 *
 * <p>Numeric contract: {@code |result - exact| <= c·ε·Σ|aᵢ·bᵢ|} for a sum of c terms, plus one rounding to the output's
 * type; the order of a sum is fixed within a backend for a given shape and does not depend on threads.
 */
public interface MatmulKernels {
    /** {@code y = alpha·x·wᵀ}, or {@code y += …} when {@code accumulate}. */
    void nt(Stream s, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate);

    /** {@link #nt} of several products, none of which reads what another writes; of few rows in one loop or launch. */
    default void nt(Stream s, Tensor[] x, Tensor[] w, float[] alpha, Tensor[] y, boolean accumulate) {
        for (int i = 0; i < x.length; i++) {
            nt(s, x[i], w[i], alpha[i], y[i], accumulate);
        }
    }

    /** {@code dx = alpha·dy·w}, or {@code dx += …} when {@code accumulate}. */
    void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate);

    /** {@code dw = alpha·dyᵀ·x}, or {@code dw += …} when {@code accumulate}. */
    void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate);
}
