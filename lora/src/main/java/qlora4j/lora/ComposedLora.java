package qlora4j.lora;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The linear layer as the visible composition of products and three small element-wise steps. It serves both CPU
 * backends: the products are those of the stream's backend, the steps those of the subclass.
 */
abstract class ComposedLora implements LoraKernels {
    /** {@code y[i, j] += residual[i, j] + bias[j]}; either may be null. */
    abstract void addRows(Tensor y, Tensor residual, Tensor bias);

    /** {@code out = dropout(x)}, or {@code out += dropout(x)} when {@code add}; see {@link Dropout}. */
    abstract void dropout(Dropout d, int module, Tensor x, Tensor out, boolean add);

    /** {@code dBias[j] += Σᵢ dy[i, j]}. */
    abstract void sumRows(Tensor dy, Tensor dBias);

    /** What is done over consecutive rows with one adapter; {@code pair} is null where they have none. */
    private interface Run {
        void over(LoraPair pair, int from, int to);
    }

    /** Calls {@code run} for each stretch of rows with the same adapter. */
    private static void eachRun(Linear.Call call, int rows, Run run) {
        Tensor ofRow = call.adapters().ofRow();
        if (ofRow == null) {
            if (rows > 0) {
                run.over(call.single(), 0, rows);
            }
            return;
        }
        int from = 0;
        while (from < rows) {
            int slot = (int) ofRow.get(from);
            int to = from + 1;
            while (to < rows && (int) ofRow.get(to) == slot) {
                to++;
            }
            run.over(call.pair(slot), from, to);
            from = to;
        }
    }

    /** Rows of the part of u that a pair of lower rank uses: u's first r·rows elements of the run, as [rows, r]. */
    static Tensor part(Tensor u, LoraPair pair, int from, int to) {
        return u.slice((long) from * u.cols(), to - from, pair.rank());
    }

    @Override
    public void forward(Stream s, Linear.Call call, Tensor x, Tensor residual, Tensor y, Tensor u, Tensor dropped) {
        if (y != null) {
            call.weight().product(s, x, y);
        }
        afterProduct(s, call, x, residual, y, u, dropped);
    }

    /** Where all weights are in 4 bits, their products are one operation. */
    @Override
    public void forward(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u) {
        QuantizedTensor[] w = new QuantizedTensor[calls.length];
        for (int i = 0; i < calls.length; i++) {
            if (!(calls[i].weight() instanceof LinearWeight.Quantized q)) {
                LoraKernels.super.forward(s, calls, x, y, u);
                return;
            }
            w[i] = q.w();
        }
        Blockwise.matmul(s, x, w, y);
        boolean single = true;
        for (Linear.Call call : calls) {
            single &= call.adapters().ofRow() == null;
        }
        for (int i = 0; i < calls.length; i++) {
            afterProduct(s, calls[i], x, null, y[i], single ? null : u[i], null);
        }
        if (single) {
            addPairs(s, calls, x, y, u);
        }
    }

    /** {@code u = x·Aᵀ} of all layers as one operation, then {@code y += scale·u·Bᵀ} of all. */
    private static void addPairs(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u) {
        int n = 0;
        for (int i = 0; i < calls.length; i++) {
            n += u[i] == null || calls[i].single() == null ? 0 : 1;
        }
        if (n == 0 || x.rows() == 0) {
            return;
        }
        Tensor[] xs = new Tensor[n], a = new Tensor[n], us = new Tensor[n], b = new Tensor[n], ys = new Tensor[n];
        float[] one = new float[n], scale = new float[n];
        for (int i = 0, j = 0; i < calls.length; i++) {
            LoraPair pair = calls[i].single();
            if (u[i] != null && pair != null) {
                xs[j] = x;
                a[j] = pair.a();
                one[j] = 1;
                us[j] = part(u[i], pair, 0, x.rows());
                b[j] = pair.b();
                scale[j] = (float) pair.scale();
                ys[j++] = y[i];
            }
        }
        Matmul.nt(s, xs, a, one, us, false);
        Matmul.nt(s, us, b, scale, ys, true);
    }

    private void afterProduct(Stream s, Linear.Call call, Tensor x, Tensor residual, Tensor y, Tensor u,
            Tensor dropped) {
        if (y != null) {
            if (residual != null || call.bias() != null) {
                addRows(y, residual, call.bias());
            }
        }
        if (u == null) {
            return;
        }
        Tensor xd = droppedInput(call, x, dropped);
        eachRun(call, x.rows(), (pair, from, to) -> {
            if (pair == null) {
                return;
            }
            Tensor ur = part(u, pair, from, to);
            Matmul.nt(s, xd.rows(from, to), pair.a(), 1, ur, false);
            if (y != null) {
                Matmul.nt(s, ur, pair.b(), (float) pair.scale(), y.rows(from, to), true);
            }
        });
    }

    @Override
    public void backward(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, boolean accumulate, Tensor dx,
            Tensor du, Tensor dropped) {
        weightGradients(s, call, dy, x);
        if (u != null) {
            Tensor xd = droppedInput(call, x, dropped);
            eachRun(call, x.rows(), (pair, from, to) -> {
                if (pair != null) {
                    Tensor dur = part(du, pair, from, to);
                    Matmul.nn(s, dy.rows(from, to), pair.b(), (float) pair.scale(), dur, false);
                    pairGradients(s, pair, dy.rows(from, to), part(u, pair, from, to), dur, xd.rows(from, to));
                }
            });
        }
        if (dx != null) {
            call.weight().productBackward(s, dy, accumulate, dx);
            if (u != null) {
                throughPairs(s, call, du, dropped, dx);
            }
        }
    }

    /** {@code dx += dropout'(du·A)}. */
    private void throughPairs(Stream s, Linear.Call call, Tensor du, Tensor dropped, Tensor dx) {
        Tensor back = dropped == null ? dx : dropped;
        eachRun(call, dx.rows(), (pair, from, to) -> {
            if (pair != null) {
                Matmul.nn(s, part(du, pair, from, to), pair.a(), 1, back.rows(from, to), dropped == null);
            } else if (dropped != null) {
                s.zero(dropped.rows(from, to));
            }
        });
        if (dropped != null) {
            dropout(call.adapters().dropout(), call.module(), dropped, dx, true);
        }
    }

    /** {@code dW += dyᵀ·x} and {@code dbias += Σ dy}, where they are trained. */
    final void weightGradients(Stream s, Linear.Call call, Tensor dy, Tensor x) {
        if (call.dWeight() != null) {
            Matmul.tn(s, dy, x, 1, call.dWeight(), true);
        }
        if (call.dBias() != null) {
            sumRows(dy, call.dBias());
        }
    }

    /** {@code dB += scale·dyᵀ·u} and {@code dA += duᵀ·xd}, where they are trained. */
    static void pairGradients(Stream s, LoraPair pair, Tensor dy, Tensor u, Tensor du, Tensor xd) {
        if (pair.trained()) {
            Matmul.tn(s, dy, u, (float) pair.scale(), pair.dB(), true);
            Matmul.tn(s, du, xd, 1, pair.dA(), true);
        }
    }

    /** x, or {@code dropout(x)} where {@code dropped} is there to hold it. */
    final Tensor droppedInput(Linear.Call call, Tensor x, Tensor dropped) {
        if (dropped == null) {
            return x;
        }
        dropout(call.adapters().dropout(), call.module(), x, dropped, false);
        return dropped;
    }
}
