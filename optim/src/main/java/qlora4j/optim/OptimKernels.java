package qlora4j.optim;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The operations of the optimizer on ranges of flat buffers. All tensors lie on the stream's device; shapes and types
 * were checked by {@link Optim} and {@link AdamW}. {@code scalars} is float64 {@code [OptimScalars.SIZE]}.
 */
public interface OptimKernels {
    /** Squares are summed over chunks of this many elements, then over the chunks. */
    int CHUNK = 4096;
    /** Within a chunk, element {@code i} is added to partial sum {@code i % PARTIALS}; these are added in order. */
    int PARTIALS = 8;

    /**
     * One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) on {@code n} elements, in place. With
     * {@code g = CLIP_SCALE * grad}, {@code c1}, {@code c2}, {@code lr} from {@code scalars}:
     *
     * <pre>
     * TORCH                                     BITSANDBYTES
     * p = p * (1 - lr * wd)                     m = m * beta1 + (1 - beta1) * g
     * m = m + (1 - beta1) * (g - m)             v = v * beta2 + ((1 - beta2) * g) * g
     * v = v * beta2 + (1 - beta2) * (g * g)     p = p + (-lr * c2 / c1) * (m / (sqrt(v) + eps * c2))
     * p = p + (-lr / c1) * (m / (sqrt(v) / c2 + eps))     p = p * (1 - lr * wd)
     * </pre>
     *
     * <p>Every operation on elements is rounded to the tensors' type once, in the order written, without fused
     * multiply-add: results are bit-identical on every backend and vector width (a NaN's payload is not defined).
     *
     * @param hyper the group's constants
     * @param params {@code [n]} float32 or float64, updated
     * @param grads {@code [n]}, read
     * @param expAvg {@code [n]}, the first moment {@code m}, updated
     * @param expAvgSq {@code [n]}, the second moment {@code v}, updated
     */
    void adamW(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor expAvg, Tensor expAvgSq,
            Tensor scalars);

    /**
     * {@code scalars[SUM_OF_SQUARES] = sum of x[i]^2}, in double, in the order that {@link #CHUNK} and {@link #PARTIALS}
     * define: independent of threads and vector width. Not finite exactly where an element is not (for float32).
     * Relative error at most {@code (CHUNK / PARTIALS + PARTIALS + n / CHUNK) * 2^-53}.
     *
     * @param x {@code [n]} float32 or float64
     * @param chunkSums {@code [ceil(n / CHUNK)]} float64, scratch
     */
    void sumOfSquares(Stream stream, Tensor x, Tensor chunkSums, Tensor scalars);

    /**
     * The factor of {@code torch.nn.utils.clip_grad_norm_}:
     *
     * <pre>
     * GRAD_NORM  = GRAD_SCALE * sqrt(SUM_OF_SQUARES)
     * CLIP_SCALE = GRAD_SCALE * min(1, maxNorm / (GRAD_NORM + 1e-6))
     * </pre>
     *
     * @param maxNorm the largest norm allowed; +infinity clips nothing
     */
    void clipScale(Stream stream, double maxNorm, Tensor scalars);

    /**
     * Counts elements that are NaN or infinite.
     *
     * @param x {@code [n]} float32 or float64
     * @param count {@code [1]} int64, overwritten
     */
    void nonFinite(Stream stream, Tensor x, Tensor count);
}
