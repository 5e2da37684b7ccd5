package qlora4j.lora;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * What DoRA needs beside the products of a linear layer; {@link DoraLinear} composes them. T is float32, float64 where
 * the activations are.
 */
public interface DoraKernels {
    /**
     * {@code squares[j] = Σₖ w[j, k]²}.
     *
     * @param w [out, in]
     * @param squares T [out], overwritten
     */
    void rowSquares(Stream s, Tensor w, Tensor squares);

    /**
     * The norms of the rows of {@code W + scale·B·A}, without forming it, and what the output is multiplied with:
     *
     * <pre>
     * norm[j]² = ‖W_j‖² + 2·scale·Σₖ B[j, k]·(A·Wᵀ)[k, j] + scale²·Σₖₗ B[j, k]·(A·Aᵀ)[k, l]·B[j, l]
     * gain[j]  = magnitude[j] / norm[j]
     * </pre>
     *
     * Where a norm is 0 the gain is 1: the row's output is 0 whatever its magnitude (PEFT divides and gets NaN).
     *
     * @param squares T [out], {@code ‖W_j‖²}
     * @param wa T [r, out], {@code A·Wᵀ}
     * @param aa T [r, r], {@code A·Aᵀ}
     * @param b [out, r]
     * @param magnitude T [out]
     * @param norm T [out], overwritten
     * @param gain T [out], overwritten
     */
    void gain(Stream s, Tensor squares, Tensor wa, Tensor aa, Tensor b, double scale, Tensor magnitude, Tensor norm,
            Tensor gain);

    /**
     * {@code out[i, j] = (gain[j] + shift)·x[i, j] + residual[i, j] + bias[j]}.
     *
     * @param x [N, out]
     * @param gain T [out]; null: ones
     * @param residual [N, out] or null; may be {@code out}
     * @param bias [out] or null
     * @param out [N, out], overwritten; may be x
     */
    void scaleColumns(Stream s, Tensor x, Tensor gain, double shift, Tensor residual, Tensor bias, Tensor out);

    /**
     * {@code sum[j] += Σᵢ dy[i, j]·z[i, j] / norm[j]}: with z the output before it is scaled, the gradient of the
     * magnitudes; nothing is added where norm is 0. Without z and norm the plain sum, the gradient of a bias.
     *
     * @param dy [N, out]
     * @param z [N, out] or null
     * @param norm T [out] or null
     * @param sum T [out], accumulated
     */
    void sumColumns(Stream s, Tensor dy, Tensor z, Tensor norm, Tensor sum);

    /** {@code out = dropout(x)}, or {@code out += dropout(x)} when {@code add}; see {@link Dropout}. */
    void dropout(Stream s, Dropout d, int module, Tensor x, Tensor out, boolean add);
}
