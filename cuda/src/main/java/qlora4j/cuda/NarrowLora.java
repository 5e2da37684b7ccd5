package qlora4j.cuda;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.cuda.RoundedAdapters.Group;
import qlora4j.cuda.SummedProducts.Output;
import qlora4j.cuda.SummedProducts.Term;
import qlora4j.cuda.WeightsAhead.Next;
import qlora4j.cuda.WeightsAhead.Rows;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Tensor;

/**
 * Layers of one x over many rows in bfloat16, each with at most one adapter for all rows. Products round u, du, A and B to
 * bfloat16, so u and du are kept rounded, in the memory that they have in float32: of all layers beside each other,
 * {@code [N, Σr]}, as A is {@code [Σr, in]}. Then one product makes u of all layers, and one dA. Adapters are rounded in
 * one launch, B times the adapter's scale.
 *
 * <p>Where {@link SummedProducts} takes them, {@code y = x·Wᵀ + u·Bᵀ + residual + bias} of all layers whose dequantized
 * weights are in the workspace at once is one launch, and {@code dx = Σ dy·W + du·A} another. Elsewhere y and dx begin
 * with the adapters' part, to which the products with W are added.
 */
final class NarrowLora {
    /** Layers that go together. */
    static final int MOST = 3;

    private final CudaBlockwise blockwise;
    private final Products products;
    private final CudaLora lora;
    final RoundedAdapters adapters;
    final WeightsAhead ahead;

    NarrowLora(CudaBackend cuda, CudaBlockwise blockwise, Products products, CudaLora lora) {
        this.blockwise = blockwise;
        this.products = products;
        this.lora = lora;
        adapters = new RoundedAdapters(cuda);
        ahead = new WeightsAhead(cuda, blockwise, products.summed());
    }

    /**
     * Whether these layers go together, and only by this class. It is decided by what the forward and the backward of a
     * layer have in common.
     */
    static boolean takes(Linear.Call[] calls, Tensor x, Tensor[] u) {
        if (x.dtype() != DType.BF16 || x.rows() <= CudaMatmul.FEW_ROWS || calls.length > MOST) {
            return false;
        }
        long end = 0;
        long bytes = 0;
        for (int i = 0; i < calls.length; i++) {
            if (u[i] == null) {
                continue;
            }
            LoraPair pair = calls[i].single();
            if (pair == null || pair.dora() != null || pair.a().dtype() != DType.F32 || pair.b().dtype() != DType.F32
                    || pair.rank() != u[i].cols() || end != 0 && u[i].data().address() != end) {
                return false;
            }
            end = u[i].data().address() + u[i].bytes();
            bytes += RoundedAdapters.bytes(pair.a().size()) + RoundedAdapters.bytes(pair.b().size());
        }
        return (end != 0 || x.rows() > CudaSmallm.ROWS) && bytes <= RoundedAdapters.MOST_BYTES;
    }

    /**
     * Weights from a layer on as matrices of bfloat16, those in 4 bits where they are to be dequantized one behind the
     * other: as many as there is room for.
     */
    List<Matrix> weights(Linear.Call[] calls, int from) {
        ahead.begin();
        List<Matrix> all = new ArrayList<>();
        for (int i = from; i < calls.length; i++) {
            Matrix w = switch (calls[i].weight()) {
                case LinearWeight.Dense d -> Matrix.of(d.w());
                case LinearWeight.Quantized q -> ahead.place(Rows.all(q.w()));
            };
            if (w == null) {
                break;
            }
            all.add(w);
        }
        return all;
    }

    void dequantize(CudaStream s, Linear.Call call) {
        if (call.weight() instanceof LinearWeight.Quantized q) {
            ahead.finish(s, Rows.all(q.w()));
        }
    }

    /** What is dequantized beside a product of m rows, if it is the last of an operation. */
    private Next next(boolean last, int m) {
        return last ? ahead.takeAnnounced(m) : Next.NOTHING;
    }

    /**
     * See {@code LoraKernels.forward}.
     *
     * @param xd x after dropout, or x
     */
    void forward(CudaStream s, Linear.Call[] calls, Tensor x, Tensor xd, Tensor[] residual, Tensor[] y, Tensor[] u) {
        Group g = adapters.round(s, calls, x, u);
        Matrix inner = g.all(u);
        if (inner != null) {
            products.multiply(s, Layout.NT, Matrix.of(xd), g.a(), inner, Epilogue.plain(1, false));
        }
        if (Arrays.stream(y).allMatch(Objects::isNull)) {
            return;
        }
        for (int i = 0; i < calls.length; i++) {
            Variants.same("residual", x, residual[i]);
            Variants.same("bias", x, calls[i].bias());
        }
        int i = 0;
        while (i < calls.length) {
            List<Matrix> w = weights(calls, i);
            List<Output> sums = new ArrayList<>();
            for (int j = i; j < i + w.size(); j++) {
                if (y[j] != null) {
                    List<Term> terms = new ArrayList<>(List.of(new Term(Matrix.of(x), w.get(j - i))));
                    if (g.pairs()[j] != null) {
                        terms.add(new Term(g.part(inner, j), g.b()[j]));
                    }
                    sums.add(new Output(Matrix.of(y[j]), residual[j] == null ? null : Matrix.of(residual[j]),
                            calls[j].bias(), terms));
                }
            }
            boolean summed = products.summed().takes(Layout.NT, sums);
            for (int j = i; j < i + w.size(); j++) {
                if (y[j] != null && summed) {
                    dequantize(s, calls[j]);
                } else if (y[j] != null) {
                    forward(s, g, calls[j], j, x, w.get(j - i), inner, residual[j], y[j]);
                }
            }
            if (summed) {
                products.summed().multiply(s, Layout.NT, sums, ahead, next(i + w.size() == calls.length, x.rows()));
            }
            i += w.size();
        }
    }

    /** One layer's y. */
    private void forward(CudaStream s, Group g, Linear.Call call, int i, Tensor x, Matrix w, Matrix inner,
            Tensor residual, Tensor y) {
        boolean adapted = g.pairs()[i] != null;
        if (call.weight() instanceof LinearWeight.Quantized q && blockwise.fuses(x, q.w())) {
            blockwise.multiply(s, x, q.w(), y, false, residual, call.bias());
            if (adapted) {
                up(s, g, inner, i, y, true, null, null);
            }
            return;
        }
        boolean begun = adapted || residual != null || call.bias() != null;
        if (adapted) {
            up(s, g, inner, i, y, false, residual, call.bias());
        } else if (begun) {
            lora.addRows(s, residual, call.bias(), y);
        }
        dequantize(s, call);
        products.multiply(s, Layout.NT, Matrix.of(x), w, Matrix.of(y), Epilogue.plain(1, begun));
    }

    /** {@code y = scale·u·Bᵀ + residual + bias}, or added to y. */
    private void up(CudaStream s, Group g, Matrix inner, int i, Tensor y, boolean accumulate, Tensor residual,
            Tensor bias) {
        products.multiply(s, Layout.NT, g.part(inner, i), g.b()[i], Matrix.of(y),
                new Epilogue(1, accumulate, residual, bias, null, 0));
    }

    /**
     * See {@code LoraKernels.backward}.
     *
     * @param xd x after dropout, or x
     * @param dropped scratch like x where there was dropout, else null
     */
    void backward(CudaStream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor xd, Tensor[] u, boolean accumulate,
            Tensor dx, Tensor[] du, Tensor dropped) {
        Group g = toAdapters(s, calls, dy, x, xd, u, du);
        Matrix dInner = g.all(du);
        if (dx == null) {
            return;
        }
        boolean begun = accumulate;
        boolean adapted = dropped == null && dInner != null;
        int i = 0;
        while (i < calls.length) {
            List<Matrix> w = weights(calls, i);
            List<Term> terms = new ArrayList<>();
            for (int j = 0; j < w.size(); j++) {
                terms.add(new Term(Matrix.of(dy[i + j]), w.get(j)));
            }
            if (adapted && i == 0) {
                terms.add(new Term(dInner, g.a()));
            }
            List<Output> sum = List.of(new Output(Matrix.of(dx), begun ? Matrix.of(dx) : null, null, terms));
            boolean summed = products.summed().takes(Layout.NN, sum);
            if (!summed && adapted && i == 0) {
                products.multiply(s, Layout.NN, dInner, g.a(), Matrix.of(dx), Epilogue.plain(1, begun));
                begun = true;
            }
            for (int j = 0; j < w.size(); j++) {
                dequantize(s, calls[i + j]);
                if (!summed) {
                    products.multiply(s, Layout.NN, Matrix.of(dy[i + j]), w.get(j), Matrix.of(dx),
                            Epilogue.plain(1, begun));
                }
                begun = true;
            }
            if (summed) {
                products.summed().multiply(s, Layout.NN, sum, ahead, next(i + w.size() == calls.length, x.rows()));
            }
            i += w.size();
        }
        if (dropped != null) {
            products.multiply(s, Layout.NN, dInner, g.a(), Matrix.of(dropped), Epilogue.plain(1, false));
            lora.dropout(s, calls[0].adapters().dropout(), calls[0].module(), dropped, dx, true);
        }
    }

    /** The gradients of all but x; du is made on the way. */
    Group toAdapters(CudaStream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor xd, Tensor[] u, Tensor[] du) {
        for (int i = 0; i < calls.length; i++) {
            if (calls[i].dWeight() != null) {
                Matmul.tn(s, dy[i], x, 1, calls[i].dWeight(), true);
            }
            if (calls[i].dBias() != null) {
                lora.sumRows(s, dy[i], calls[i].dBias());
            }
        }
        Group g = adapters.round(s, calls, x, u);
        Matrix inner = g.all(u);
        Matrix dInner = g.all(du);
        for (int i = 0; i < calls.length; i++) {
            if (g.pairs()[i] != null) {
                products.multiply(s, Layout.NN, Matrix.of(dy[i]), g.b()[i], g.part(dInner, i),
                        Epilogue.plain(1, false));
            }
        }
        if (g.trained()) {
            gradients(s, g, dy, xd, inner, dInner);
        }
        return g;
    }

    /** {@code dB += scale·dyᵀ·u} of each, and {@code dA += duᵀ·xd} of all at once where there are several. */
    private void gradients(CudaStream s, Group g, Tensor[] dy, Tensor xd, Matrix inner, Matrix dInner) {
        RoundedAdapters.Parts all = adapters.parts();
        // Nothing is rounded here, so that the place of rounded operands is free but for the next weights.
        long sums = ahead.scratch((long) g.ranks() * xd.cols());
        Matrix dA = new Matrix(sums, DType.F32, g.ranks(), xd.cols(), xd.cols());
        for (int i = 0; i < g.pairs().length; i++) {
            LoraPair p = g.pairs()[i];
            if (p != null) {
                products.multiply(s, Layout.TN, Matrix.of(dy[i]), g.part(inner, i), Matrix.of(p.dB()),
                        Epilogue.plain((float) p.scale(), true));
                all.add(sums + DType.F32.bytes((long) g.first()[i] * xd.cols()), p.dA().data().address(), p.dA().size(),
                        1);
                if (p.rank() == g.ranks()) {
                    products.multiply(s, Layout.TN, dInner, Matrix.of(xd), Matrix.of(p.dA()), Epilogue.plain(1, true));
                    return;
                }
            }
        }
        products.multiply(s, Layout.TN, dInner, Matrix.of(xd), dA, Epilogue.plain(1, false));
        adapters.add(s, all);
    }
}
