package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Dora;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** DoRA on a weight in 4 bits, forward and backward: section 6. */
final class DoraOperation implements Operation {
    private static final int ROWS = 5;
    private static final int FEATURES = 64;
    private static final int RANK = 8;
    private static final int ALPHA = 16;
    /** As for the plain layer: sums of 64 products of numbers below 4, and a quotient of norms near 1. */
    private static final double LIMIT = 2e-4;

    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    DoraOperation() {
        inputs.put("w", Inputs.normal(DType.F32, 60, 0.125, FEATURES, FEATURES));
        inputs.put("x", Inputs.normal(DType.F32, 61, 1, ROWS, FEATURES));
        inputs.put("dy", Inputs.normal(DType.F32, 62, 1, ROWS, FEATURES));
        inputs.put("bias", Inputs.normal(DType.F32, 63, 1, FEATURES));
        inputs.put("lora_A", Inputs.normal(DType.F32, 64, 0.125, RANK, FEATURES));
        inputs.put("lora_B", Inputs.normal(DType.F32, 65, 0.125, FEATURES, RANK));
        Tensor magnitude = Inputs.normal(DType.F32, 66, 0.2, FEATURES);
        for (int i = 0; i < FEATURES; i++) {
            magnitude.set(i, 1 + magnitude.get(i));
        }
        inputs.put("magnitude", magnitude);
    }

    @Override
    public String name() {
        return "dora";
    }

    @Override
    public String section() {
        return "6";
    }

    @Override
    public Map<String, Object> parameters() {
        return Map.of("r", RANK, "lora_alpha", ALPHA);
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("y", LIMIT), new Output("dmagnitude", LIMIT).after("y"),
                new Output("dlora_B", LIMIT).after("y"), new Output("dlora_A", LIMIT).after("y"),
                new Output("dx", LIMIT).after("y"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            QuantizedTensor w = Blockwise.quantize(s, on.copy(inputs.get("w")), QuantConfig.QLORA);
            LinearWeight weight = new LinearWeight.Quantized(w);
            Linear linear = new Linear("linear", 0, weight, on.copy(inputs.get("bias")));
            Tensor dA = on.copy(Tensor.zeros(DType.F32, RANK, FEATURES));
            Tensor dB = on.copy(Tensor.zeros(DType.F32, FEATURES, RANK));
            Tensor dMagnitude = on.copy(Tensor.zeros(DType.F32, FEATURES));
            try (Dora dora = new Dora(backend, weight, on.copy(inputs.get("magnitude")), dMagnitude)) {
                linear.set(0, new LoraPair(on.copy(inputs.get("lora_A")), on.copy(inputs.get("lora_B")),
                        (double) ALPHA / RANK, dA, dB, dora));
                Tensor x = on.copy(inputs.get("x"));
                Tensor dy = on.copy(inputs.get("dy"));
                Tensor[] u = new Tensor[1];
                out.put("y", on.filled(DType.F32, x.shape(),
                        t -> u[0] = linear.forward(s, Linear.Adapters.of(0), x, null, t)));
                out.put("dx", on.filled(DType.F32, x.shape(),
                        t -> linear.backward(s, Linear.Adapters.of(0), dy, x, u[0], false, t)));
                s.release(u[0]);
                out.put("dlora_A", on.download(dA));
                out.put("dlora_B", on.download(dB));
                out.put("dmagnitude", on.download(dMagnitude));
            }
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        PlainQuantizer quantizer = new PlainQuantizer(QuantConfig.QLORA.type().codebook(),
                QuantConfig.QLORA.blocksize(), fault);
        Matrix w = Matrix.of(quantizer.run(inputs.get("w")).get("nested.dequant"));
        Matrix x = Matrix.of(inputs.get("x"));
        Matrix dy = Matrix.of(inputs.get("dy"));
        Matrix a = Matrix.of(inputs.get("lora_A"));
        Matrix b = Matrix.of(inputs.get("lora_B"));
        Matrix magnitude = Matrix.of(inputs.get("magnitude"));
        double scale = Fault.scale(fault, ALPHA, RANK);
        Matrix v = w.plus(b.times(a).scaled(scale));
        double[] norm = norms(switch (fault) {
            case NORM_OF_BASE_ALONE -> w;
            case NORM_OVER_INPUTS -> v.transposed();
            case null, default -> v;
        });
        Matrix gain = new Matrix(1, FEATURES, new double[FEATURES]);
        for (int j = 0; j < FEATURES; j++) {
            gain.at()[j] = fault == Fault.MAGNITUDE_IGNORED ? 1 : magnitude.at()[j] / norm[j];
        }
        Matrix z = x.times(v.transposed());
        Matrix scaledDy = dy.timesColumns(gain);
        Matrix dv = scaledDy.transposed().times(x);
        double[] dMagnitude = new double[FEATURES];
        for (int j = 0; j < FEATURES; j++) {
            double sum = 0;
            for (int i = 0; i < ROWS; i++) {
                sum += dy.get(i, j) * z.get(i, j);
            }
            dMagnitude[j] = sum / norm[j];
            for (int k = 0; fault == Fault.NORM_NOT_DETACHED && k < FEATURES; k++) {
                dv.at()[j * FEATURES + k] -= gain.at()[j] / (norm[j] * norm[j]) * sum * v.get(j, k);
            }
        }
        Matrix y = z.timesColumns(gain);
        if (fault != Fault.BIAS_MISSING) {
            y = y.plus(Matrix.of(inputs.get("bias")));
        }
        double backward = fault == Fault.GRADIENTS_UNSCALED ? 1 : scale;
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("y", y.toTensor(DType.F32));
        out.put("dmagnitude", new Matrix(1, FEATURES, dMagnitude).toTensor(DType.F32).view(FEATURES));
        out.put("dlora_B", dv.times(a.transposed()).scaled(backward).toTensor(DType.F32));
        out.put("dlora_A", b.transposed().times(dv).scaled(backward).toTensor(DType.F32));
        out.put("dx", scaledDy.times(v).toTensor(DType.F32));
        return out;
    }

    private static double[] norms(Matrix m) {
        double[] norm = new double[m.rows()];
        for (int j = 0; j < norm.length; j++) {
            for (int k = 0; k < m.cols(); k++) {
                norm[j] += m.get(j, k) * m.get(j, k);
            }
            norm[j] = Math.sqrt(norm[j]);
        }
        return norm;
    }
}
