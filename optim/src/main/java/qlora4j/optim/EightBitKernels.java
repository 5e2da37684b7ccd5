package qlora4j.optim;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** AdamW with its moments in 8 bits, block by block (Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization). */
public interface EightBitKernels {
    /** Elements that share a constant. */
    int BLOCK = 256;

    /**
     * One step of bitsandbytes' formula ({@link OptimKernels#adamW}) on {@code n} elements whose moments are held as
     * codes of the signed (m) and unsigned (v) dynamic map times their block's constant. In each block: both moments
     * are dequantized and updated, parameters are updated from the unrounded moments, and the moments are quantized to
     * the nearest code of {@code moment / absmax}. A code of m whose value has another sign than m is moved one step to
     * m's side, so that no small moment becomes zero or changes its sign.
     *
     * <p>In a block of zeros, codes are those of 0. Where a gradient is NaN or infinite the moments become 0 and the
     * parameter stays, as in bitsandbytes. Each operation is rounded to float32 once: bit-identical on every backend
     * and vector width. bitsandbytes divides approximately and fuses some multiply-adds, so a few codes in ten thousand
     * differ by one.
     *
     * <p>What is known of the method (Dettmers et al. 2022, section 2.2; Li et al. 2023, the zero-point problem): where
     * a block has an outlier, small second moments in it are rounded to 0; a later gradient that is small beside the
     * first moment then divides by epsilon alone, and the parameter jumps. Other blocks are not touched. It is computed
     * so here as well.
     *
     * @param params F32 [n], updated; n is a multiple of {@link #BLOCK} but for the last block
     * @param grads F32 [n], read
     * @param codes1 U8 [n], m
     * @param codes2 U8 [n], v
     * @param absmax1 F32 [ceil(n / BLOCK)]
     * @param absmax2 F32 [ceil(n / BLOCK)]
     */
    void adamW8(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor codes1, Tensor codes2,
            Tensor absmax1, Tensor absmax2, Tensor scalars);
}
