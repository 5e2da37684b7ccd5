package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** A linear layer on a weight in 4 bits, with and without an adapter, forward and backward: section 6. */
final class LinearOperation implements Operation {
    private static final int ROWS = 5;
    /** The weight is square, so that a transposed one fits too. */
    private static final int FEATURES = 64;
    private static final int RANK = 8;
    private static final int ALPHA = 32;
    /**
     * Sums of 64 and of 8 products of numbers below 4 and 1: {@code 64·2⁻²⁴·Σ|aᵢbᵢ|} with a sum of at most about 25, then
     * the same once more for the adapter's two products.
     */
    private static final double LIMIT = 2e-4;

    private final boolean adapted;
    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    LinearOperation(boolean adapted) {
        this.adapted = adapted;
        inputs.put("w", Inputs.normal(DType.F32, 10, 0.125, FEATURES, FEATURES));
        inputs.put("x", Inputs.normal(DType.F32, 11, 1, ROWS, FEATURES));
        inputs.put("dy", Inputs.normal(DType.F32, 12, 1, ROWS, FEATURES));
        inputs.put("bias", Inputs.normal(DType.F32, 13, 1, FEATURES));
        if (adapted) {
            inputs.put("lora_A", Inputs.normal(DType.F32, 14, 0.125, RANK, FEATURES));
            inputs.put("lora_B", Inputs.normal(DType.F32, 15, 0.125, FEATURES, RANK));
        }
    }

    @Override
    public String name() {
        return adapted ? "lora" : "linear";
    }

    @Override
    public String section() {
        return "6";
    }

    @Override
    public Map<String, Object> parameters() {
        return adapted ? Map.of("r", RANK, "lora_alpha", ALPHA) : Map.of();
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        Output y = new Output("y", LIMIT);
        Output dx = new Output("dx", LIMIT);
        return adapted
                ? List.of(new Output("u", LIMIT), y.after("u"), new Output("dlora_B", LIMIT).after("u", "y"),
                        new Output("dlora_A", LIMIT).after("y"), dx.after("y"))
                : List.of(y, dx.after("y"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            QuantizedTensor w = Blockwise.quantize(s, on.copy(inputs.get("w")), QuantConfig.QLORA);
            Linear linear = new Linear("linear", 0, new LinearWeight.Quantized(w), on.copy(inputs.get("bias")));
            Tensor dA = on.copy(Tensor.zeros(DType.F32, RANK, FEATURES));
            Tensor dB = on.copy(Tensor.zeros(DType.F32, FEATURES, RANK));
            if (adapted) {
                linear.set(0, new LoraPair(on.copy(inputs.get("lora_A")), on.copy(inputs.get("lora_B")),
                        (double) ALPHA / RANK, dA, dB));
            }
            Linear.Adapters adapters = adapted ? Linear.Adapters.of(0) : Linear.Adapters.NONE;
            Tensor x = on.copy(inputs.get("x"));
            Tensor dy = on.copy(inputs.get("dy"));
            Tensor[] u = new Tensor[1];
            Tensor y = on.filled(DType.F32, x.shape(), t -> u[0] = linear.forward(s, adapters, x, null, t));
            Tensor dx = on.filled(DType.F32, x.shape(), t -> linear.backward(s, adapters, dy, x, u[0], false, t));
            if (adapted) {
                out.put("u", on.download(u[0]));
                out.put("dlora_A", on.download(dA));
                out.put("dlora_B", on.download(dB));
                s.release(u[0]);
            }
            out.put("y", y);
            out.put("dx", dx);
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        PlainQuantizer quantizer = new PlainQuantizer(QuantConfig.QLORA.type().codebook(),
                QuantConfig.QLORA.blocksize(), fault);
        Matrix w = Matrix.of(quantizer.run(inputs.get("w")).get("nested.dequant"));
        if (fault == Fault.TRANSPOSED) {
            w = w.transposed();
        }
        Matrix x = Matrix.of(inputs.get("x"));
        Matrix dy = Matrix.of(inputs.get("dy"));
        Matrix y = x.times(w.transposed());
        Matrix dx = dy.times(w);
        if (fault != Fault.BIAS_MISSING) {
            y = y.plus(Matrix.of(inputs.get("bias")));
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        if (adapted) {
            double scale = Fault.scale(fault, ALPHA, RANK);
            double backward = fault == Fault.GRADIENTS_UNSCALED ? 1 : scale;
            Matrix a = Matrix.of(inputs.get("lora_A"));
            Matrix b = Matrix.of(inputs.get("lora_B"));
            Matrix u = x.times(a.transposed());
            Matrix du = dy.times(b).scaled(backward);
            y = y.plus(u.times(b.transposed()).scaled(scale));
            dx = dx.plus(dy.times(b).scaled(scale).times(a));
            out.put("u", u.toTensor(DType.F32));
            out.put("dlora_B", dy.transposed().times(u).scaled(backward).toTensor(DType.F32));
            out.put("dlora_A", du.transposed().times(x).toTensor(DType.F32));
        }
        out.put("y", y.toTensor(DType.F32));
        out.put("dx", dx.toTensor(DType.F32));
        return out;
    }
}
