package qlora4j.cuda;

import java.util.ArrayList;
import java.util.List;
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
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Layers around SwiGLU over many rows in bfloat16 by {@link SummedProducts#gated}: gate and up are not written where
 * nobody needs them, and the gradient of what is between never is. Each method enqueues nothing and returns false where
 * the layers are not such ones.
 */
final class GatedLora {
    private final Products products;
    private final NarrowLora narrow;

    GatedLora(Products products, NarrowLora narrow) {
        this.products = products;
        this.narrow = narrow;
    }

    private static boolean isPlain(Linear.Call call) {
        return call.bias() == null && call.dWeight() == null && call.dBias() == null;
    }

    /** A weight's shape, or itself where it is dense, for a question. */
    private static Matrix shape(LinearWeight weight) {
        return switch (weight) {
            case LinearWeight.Dense d -> Matrix.of(d.w());
            case LinearWeight.Quantized q -> new Matrix(0, DType.BF16, q.w().outFeatures(), q.w().inFeatures(),
                    q.w().inFeatures());
        };
    }

    /** See {@code LoraKernels.forwardGated}. */
    boolean forward(CudaStream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u, boolean kept, Tensor out) {
        if (!NarrowLora.takes(calls, x, u) || !isPlain(calls[0]) || !isPlain(calls[1])
                || (u[0] == null) != (u[1] == null)
                || !products.summed().takesGated(Layout.NT, outputs(y, out, sum(x, shape(calls[0].weight())),
                        sum(x, shape(calls[1].weight()))))) {
            return false;
        }
        Group g = narrow.adapters.round(s, calls, x, u);
        Matrix inner = g.all(u);
        if (inner != null) {
            products.multiply(s, Layout.NT, Matrix.of(x), g.a(), inner, Epilogue.plain(1, false));
        }
        if (calls[0].weight() instanceof LinearWeight.Quantized gate
                && calls[1].weight() instanceof LinearWeight.Quantized up) {
            List<Rows> gates = narrow.ahead.parts(gate.w(), x.rows());
            List<Rows> ups = narrow.ahead.parts(up.w(), x.rows());
            for (int i = 0; i < gates.size(); i++) {
                List<Matrix> w = dequantized(s, gates.get(i), ups.get(i));
                forward(s, g, x, inner, w, y, out, gates.get(i).from(), kept, i + 1 == gates.size()
                        ? narrow.ahead.takeAnnounced(x.rows())
                        : new Next(List.of(gates.get(i + 1), ups.get(i + 1)), List.of()));
            }
            return true;
        }
        List<Matrix> w = narrow.weights(calls, 0);
        for (Linear.Call c : calls) {
            narrow.dequantize(s, c);
        }
        forward(s, g, x, inner, w, y, out, 0, kept, narrow.ahead.takeAnnounced(x.rows()));
        return true;
    }

    private List<Matrix> dequantized(CudaStream s, Rows gate, Rows up) {
        narrow.ahead.begin();
        List<Matrix> w = List.of(narrow.ahead.place(gate), narrow.ahead.place(up));
        narrow.ahead.finish(s, gate);
        narrow.ahead.finish(s, up);
        return w;
    }

    /** Columns of gate, up and out from {@code from} on. */
    private void forward(CudaStream s, Group g, Tensor x, Matrix inner, List<Matrix> w, Tensor[] y, Tensor out,
            int from,
            boolean kept, Next next) {
        List<Output> all = new ArrayList<>();
        for (int i = 0; i < w.size(); i++) {
            int n = w.get(i).rows();
            List<Term> terms = inner == null ? sum(x, w.get(i))
                    : List.of(new Term(Matrix.of(x), w.get(i)), new Term(inner, g.b()[i].rows(from, n), g.first()[i]));
            all.add(new Output(Matrix.of(y[i]).columns(from, n), null, null, terms));
        }
        all.add(new Output(Matrix.of(out).columns(from, w.getFirst().rows()), null, null, List.of()));
        products.summed().gated(s, Layout.NT, all, kept, narrow.ahead, next);
    }

    private static List<Term> sum(Tensor x, Matrix w) {
        return List.of(new Term(Matrix.of(x), w));
    }

    private static List<Output> outputs(Tensor[] y, Tensor out, List<Term> gate, List<Term> up) {
        return List.of(new Output(Matrix.of(y[0]), null, null, gate), new Output(Matrix.of(y[1]), null, null, up),
                new Output(Matrix.of(out), null, null, List.of()));
    }

    /** See {@code LoraKernels.backwardGated}. */
    boolean backward(CudaStream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, Tensor gate, Tensor up, Tensor du) {
        Linear.Call[] calls = {call};
        if (!NarrowLora.takes(calls, x, new Tensor[]{u}) || !isPlain(call) || !products.summed()
                .takesGated(Layout.NN, gradients(gate, up, sum(dy, shape(call.weight()))))) {
            return false;
        }
        Tensor[] inner = {du};
        Group g = narrow.toAdapters(s, calls, new Tensor[]{dy}, x, x, new Tensor[]{u}, inner);
        Matrix w = narrow.weights(calls, 0).getFirst();
        narrow.dequantize(s, call);
        List<Term> terms = new ArrayList<>(sum(dy, w));
        if (du != null) {
            terms.add(new Term(g.all(inner), g.a()));
        }
        products.summed().gated(s, Layout.NN, gradients(gate, up, terms), false, narrow.ahead,
                narrow.ahead.takeAnnounced(x.rows()));
        return true;
    }

    private static List<Output> gradients(Tensor gate, Tensor up, List<Term> terms) {
        return List.of(new Output(Matrix.of(gate), Matrix.of(gate), null, terms),
                new Output(Matrix.of(up), Matrix.of(up), null, List.of()));
    }
}
