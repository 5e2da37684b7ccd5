package qlora4j.lora;

import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LoraConfig.Init;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Adapters that begin with a part of the weight: {@code W ≈ base + scale·B·A} from the first step on.
 *
 * <p>PiSSA (Meng et al. 2024; PEFT's {@code pissa_init}): {@code scale·B·A} is the best approximation of W of rank r, and
 * the base holds the rest, in 4 bits where it is quantized. LoftQ (Li et al. 2023, algorithm 1; PEFT's
 * {@code loftq_init}): in turns the base is W less {@code scale·B·A}, quantized, and {@code scale·B·A} the best
 * approximation of W less the base. PEFT leaves the scale out of LoftQ, which is right where alpha = r; here it is in.
 *
 * @param wide the type of A and B: float32, or float64 where the model is
 * @param seed of PiSSA's fast decomposition
 */
public record PrincipalInit(Backend backend, Init init, int rank, double scale, DType wide, long seed) {
    /**
     * Sets a layer's base weight and returns its adapter, on the host.
     *
     * @param weight the base, in 4 bits or dense; overwritten
     * @param w its dense values [out, in], row by row
     * @param number of the module
     */
    public AdapterWeights initialize(LinearWeight weight, double[] w, int number) {
        int out = weight.outFeatures();
        int in = weight.inFeatures();
        AdapterWeights pair = null;
        if (init.kind() == Init.Kind.PISSA) {
            pair = factors(w, out, in, number);
            set(weight, less(w, pair, out, in));
            return pair;
        }
        if (!(weight instanceof LinearWeight.Quantized quantized)) {
            throw new IllegalArgumentException("--init-lora-weights loftq is for a base in 4 bits; this one is dense");
        }
        for (int turn = 0; turn < init.iterations(); turn++) {
            set(weight, pair == null ? w : less(w, pair, out, in));
            pair = factors(minus(w, held(quantized)), out, in, number);
        }
        return pair;
    }

    private AdapterWeights factors(double[] w, int out, int in, int number) {
        boolean fast = init.kind() == Init.Kind.PISSA && init.iterations() > 0;
        LowRank f = fast ? LowRank.fast(w, out, in, rank, scale, init.iterations(), seed, number)
                : LowRank.exact(w, out, in, rank, scale);
        Tensor a = Tensor.zeros(wide, rank, in);
        Tensor b = Tensor.zeros(wide, out, rank);
        for (int i = 0; i < f.a().length; i++) {
            a.set(i, f.a()[i]);
        }
        for (int i = 0; i < f.b().length; i++) {
            b.set(i, f.b()[i]);
        }
        return new AdapterWeights(a, b);
    }

    /** {@code w - scale·B·A} with A and B as they are stored. */
    private double[] less(double[] w, AdapterWeights pair, int out, int in) {
        double[] a = new double[rank * in];
        for (int i = 0; i < a.length; i++) {
            a[i] = pair.a().get(i);
        }
        double[] rest = w.clone();
        for (int i = 0; i < out; i++) {
            for (int k = 0; k < rank; k++) {
                double b = scale * pair.b().get((long) i * rank + k);
                for (int j = 0; j < in; j++) {
                    rest[i * in + j] -= b * a[k * in + j];
                }
            }
        }
        return rest;
    }

    private static double[] minus(double[] x, double[] y) {
        double[] d = x.clone();
        for (int i = 0; i < d.length; i++) {
            d[i] -= y[i];
        }
        return d;
    }

    private void set(LinearWeight weight, double[] values) {
        // The rest is quantized as it is: rounded to the checkpoint's type it would lose more.
        DType type = weight instanceof LinearWeight.Dense d ? d.w().dtype() : wide;
        Tensor host = Tensor.zeros(type, weight.outFeatures(), weight.inFeatures());
        for (int i = 0; i < values.length; i++) {
            host.set(i, values[i]);
        }
        if (weight instanceof LinearWeight.Dense dense) {
            backend.upload(host, dense.w());
            return;
        }
        QuantizedTensor w = ((LinearWeight.Quantized) weight).w();
        try (Stream s = backend.openStream(); Allocation memory = backend.allocate(host.bytes(), MemoryUse.WORKSPACE)) {
            Tensor staged = memory.tensor(0, type, host.shape());
            backend.upload(host, staged);
            Blockwise.quantize(s, staged, w);
            s.synchronize();
        }
    }

    private double[] held(LinearWeight.Quantized weight) {
        QuantizedTensor w = weight.w();
        DType type = wide;
        Tensor host = Tensor.zeros(type, w.shape());
        try (Stream s = backend.openStream(); Allocation memory = backend.allocate(host.bytes(), MemoryUse.WORKSPACE)) {
            Tensor dense = memory.tensor(0, type, w.shape());
            Blockwise.dequantize(s, w, dense);
            s.synchronize();
            backend.download(dense, host);
        }
        double[] values = new double[Math.toIntExact(w.size())];
        for (int i = 0; i < values.length; i++) {
            values[i] = host.get(i);
        }
        return values;
    }
}
