package qlora4j.lora;

import qlora4j.blockwise.Blockwise;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Magnitudes of one layer's DoRA (Liu et al. 2024, equation 5; PEFT's {@code DoraLinearLayer}):
 * {@code W' = magnitude·(W + scale·B·A) / ‖W + scale·B·A‖}, row by row. The norm counts as a constant in the gradient
 * (section 4.3). Norms are computed anew in each forward of a trained adapter, and once for one that is only run.
 */
public final class Dora implements AutoCloseable {
    private final Tensor magnitude;
    private final Tensor dMagnitude;
    private final Allocation memory;
    private final Tensor squares;
    private final Tensor norm;
    private final Tensor gain;

    /**
     * Magnitudes beside a frozen weight, whose rows' norms are taken here.
     *
     * @param magnitude F32 or F64 [out]
     * @param dMagnitude its gradient, accumulated; null when the adapter is not trained
     */
    public Dora(Backend backend, LinearWeight weight, Tensor magnitude, Tensor dMagnitude) {
        this.magnitude = magnitude;
        this.dMagnitude = dMagnitude;
        DType type = magnitude.dtype();
        int out = weight.outFeatures();
        long each = Math.ceilDiv(type.bytes(out), (long) ArenaPlan.ALIGNMENT) * ArenaPlan.ALIGNMENT;
        memory = backend.allocate(3 * each, MemoryUse.ADAPTERS);
        squares = memory.tensor(0, type, out);
        norm = memory.tensor(each, type, out);
        gain = memory.tensor(2 * each, type, out);
        try (Stream s = backend.openStream()) {
            if (weight instanceof LinearWeight.Dense dense) {
                s.kernels(DoraKernels.class).rowSquares(s, dense.w(), squares);
            } else if (weight instanceof LinearWeight.Quantized q) {
                Tensor w = s.take(type, out, weight.inFeatures());
                Blockwise.dequantize(s, q.w(), w);
                s.kernels(DoraKernels.class).rowSquares(s, w, squares);
                s.release(w);
            }
            s.synchronize();
        }
    }

    Tensor magnitude() {
        return magnitude;
    }

    Tensor dMagnitude() {
        return dMagnitude;
    }

    Tensor norm() {
        return norm;
    }

    Tensor gain() {
        return gain;
    }

    /** Computes norms and gains from the pair's present values. */
    public void refresh(Stream s, LinearWeight weight, LoraPair pair) {
        Tensor wa = s.take(magnitude.dtype(), pair.rank(), weight.outFeatures());
        Tensor aa = s.take(magnitude.dtype(), pair.rank(), pair.rank());
        weight.product(s, pair.a(), wa);
        Matmul.nt(s, pair.a(), pair.a(), 1, aa, false);
        s.kernels(DoraKernels.class).gain(s, squares, wa, aa, pair.b(), pair.scale(), magnitude, norm, gain);
        s.release(wa, aa);
    }

    /** Sets the magnitudes to the norms, so that an adapter changes nothing yet; PEFT's initial values. */
    public void initialize(Stream s, LinearWeight weight, LoraPair pair) {
        refresh(s, weight, pair);
        Tensor host = Tensor.zeros(norm.dtype(), norm.shape());
        s.backend().download(norm, host);
        s.backend().upload(host, magnitude);
        refresh(s, weight, pair);
        s.synchronize();
    }

    @Override
    public void close() {
        memory.close();
    }
}
