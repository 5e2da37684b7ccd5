package qlora4j.lora;

import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The linear layer with DoRA as a composition of the plain layer's operation, products and the small steps of
 * {@link DoraKernels}; it serves every backend. With {@code g = magnitude / ‖W + scale·B·A‖} and
 * {@code z = xd·Wᵀ + scale·xd·Aᵀ·Bᵀ}:
 *
 * <pre>
 * y  = residual + bias + g·z                                without dropout, where xd = x
 * y  = residual + bias + x·Wᵀ - xd·Wᵀ + g·z                 with, as in PEFT: the base sees x, what is added xd
 * dmagnitude += Σ dy·z / norm      dB += scale·(g·dy)ᵀ·u      dA += (scale·(g·dy)·B)ᵀ·xd
 * dx = dy·W + dropout'((g - 1)·dy·W + scale·(g·dy)·B·A)
 * </pre>
 */
final class DoraLinear {
    private DoraLinear() {
    }

    private static DoraKernels dora(Stream s) {
        return s.kernels(DoraKernels.class);
    }

    /** All rows under one pair; arguments as of {@link LoraKernels#forward}. */
    static void forward(Stream s, Linear.Call call, LoraPair pair, Tensor x, Tensor residual, Tensor y, Tensor u,
            Tensor dropped) {
        Dora d = pair.dora();
        if (y != null && pair.trained()) {
            d.refresh(s, call.weight(), pair);
        }
        if (dropped == null) {
            plain(s, call, x, y, u);
            if (y != null) {
                dora(s).scaleColumns(s, y, d.gain(), 0, residual, call.bias(), y);
            }
            return;
        }
        dora(s).dropout(s, call.adapters().dropout(), call.module(), x, dropped, false);
        Matmul.nt(s, dropped, pair.a(), 1, u, false);
        if (y != null) {
            Tensor z = s.take(y.dtype(), y.shape());
            call.weight().product(s, x, y);
            call.weight().product(s, dropped, z);
            dora(s).scaleColumns(s, z, d.gain(), -1, y, call.bias(), y);
            Matmul.nt(s, u, pair.b(), (float) pair.scale(), z, false);
            dora(s).scaleColumns(s, z, d.gain(), 0, y, null, y);
            if (residual != null) {
                dora(s).scaleColumns(s, y, null, 0, residual, null, y);
            }
            s.release(z);
        }
    }

    /** The plain layer's forward without bias, residual and dropout. */
    private static void plain(Stream s, Linear.Call call, Tensor x, Tensor y, Tensor u) {
        s.kernels(LoraKernels.class).forward(s, call.plain(), x, null, y, u, null);
    }

    /**
     * Rows of several pairs, some of which have magnitudes or biases of their own: the plain layer over all rows, then
     * each run of rows scaled. It is only run, not trained.
     */
    static void mixed(Stream s, Linear.Call call, Linear.BiasOf biasOf, Tensor x, Tensor residual, Tensor y,
            Tensor u) {
        plain(s, call, x, y, u);
        if (s.isPlan()) {
            // What follows takes nothing, and there is nothing to read.
            return;
        }
        Tensor ofRow = Tensor.zeros(call.adapters().ofRow().dtype(), call.adapters().ofRow().shape());
        s.backend().download(call.adapters().ofRow(), ofRow);
        int rows = x.rows();
        int from = 0;
        while (from < rows) {
            int slot = (int) ofRow.get(from);
            int to = from + 1;
            while (to < rows && (int) ofRow.get(to) == slot) {
                to++;
            }
            LoraPair pair = call.pair(slot);
            Tensor part = y.rows(from, to);
            dora(s).scaleColumns(s, part, pair == null || pair.dora() == null ? null : pair.dora().gain(), 0,
                    residual == null ? null : residual.rows(from, to), biasOf.slot(slot), part);
            from = to;
        }
    }

    /** Arguments as of {@link LoraKernels#backward}. */
    static void backward(Stream s, Linear.Call call, LoraPair pair, Tensor dy, Tensor x, Tensor u, boolean accumulate,
            Tensor dx, Tensor du, Tensor dropped) {
        Dora d = pair.dora();
        Tensor xd = x;
        if (dropped != null) {
            dora(s).dropout(s, call.adapters().dropout(), call.module(), x, dropped, false);
            xd = dropped;
        }
        if (call.dBias() != null) {
            dora(s).sumColumns(s, dy, null, null, call.dBias());
        }
        Tensor scaled = s.take(dy.dtype(), dy.shape());
        if (pair.trained()) {
            call.weight().product(s, xd, scaled);
            Matmul.nt(s, u, pair.b(), (float) pair.scale(), scaled, true);
            dora(s).sumColumns(s, dy, scaled, d.norm(), d.dMagnitude());
        }
        if (dropped == null) {
            dora(s).scaleColumns(s, dy, d.gain(), 0, null, null, scaled);
            s.kernels(LoraKernels.class).backward(s, call.plain(), scaled, x, u, accumulate, dx, du, null);
        } else {
            Tensor dxd = dx == null ? null : s.take(x.dtype(), x.shape());
            if (dx != null) {
                dora(s).scaleColumns(s, dy, d.gain(), -1, null, null, scaled);
                call.weight().productBackward(s, scaled, false, dxd);
            }
            dora(s).scaleColumns(s, dy, d.gain(), 0, null, null, scaled);
            Matmul.nn(s, scaled, pair.b(), (float) pair.scale(), du, false);
            if (pair.trained()) {
                Matmul.tn(s, scaled, u, (float) pair.scale(), pair.dB(), true);
                Matmul.tn(s, du, xd, 1, pair.dA(), true);
            }
            if (dx != null) {
                Matmul.nn(s, du, pair.a(), 1, dxd, true);
                call.weight().productBackward(s, dy, accumulate, dx);
                dora(s).dropout(s, call.adapters().dropout(), call.module(), dxd, dx, true);
            }
            s.release(dxd);
        }
        s.release(scaled);
    }
}
