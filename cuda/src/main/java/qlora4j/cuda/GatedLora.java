package qlora4j.cuda;

import java.util.ArrayList;
import java.util.List;
import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.cuda.RoundedAdapters.Group;
import qlora4j.cuda.SummedProducts.Output;
import qlora4j.cuda.SummedProducts.Term;
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
        List<Matrix> w = NarrowLora.weights(g, calls, 0);
        Matrix inner = g.all(u);
        if (inner != null) {
            products.multiply(s, Layout.NT, Matrix.of(x), g.a(), inner, Epilogue.plain(1, false));
        }
        List<List<Term>> terms = new ArrayList<>();
        for (int i = 0; i < calls.length; i++) {
            narrow.dequantize(s, calls[i], w.get(i));
            terms.add(inner == null ? sum(x, w.get(i))
                    : List.of(new Term(Matrix.of(x), w.get(i)), new Term(inner, g.b()[i], g.first()[i])));
        }
        products.summed().gated(s, Layout.NT, outputs(y, out, terms.get(0), terms.get(1)), kept);
        return true;
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
        Matrix w = NarrowLora.weights(g, calls, 0).getFirst();
        narrow.dequantize(s, call, w);
        List<Term> terms = new ArrayList<>(sum(dy, w));
        if (du != null) {
            terms.add(new Term(g.all(inner), g.a()));
        }
        products.summed().gated(s, Layout.NN, gradients(gate, up, terms), false);
        return true;
    }

    private static List<Output> gradients(Tensor gate, Tensor up, List<Term> terms) {
        return List.of(new Output(Matrix.of(gate), Matrix.of(gate), null, terms),
                new Output(Matrix.of(up), Matrix.of(up), null, List.of()));
    }
}
