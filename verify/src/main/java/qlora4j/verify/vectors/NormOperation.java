package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** RMSNorm and its gradient: section 7. */
final class NormOperation implements Operation {
    private static final int ROWS = 3;
    private static final int FEATURES = 24;
    /** So large that its place in the formula shows. */
    private static final double EPS = 0.25;
    /** Sums of 24 products of numbers below 4, a root and a division: some ulp of 4. */
    private static final double LIMIT = 1e-5;

    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    NormOperation() {
        inputs.put("x", Inputs.normal(DType.F32, 50, 1, ROWS, FEATURES));
        inputs.put("weight", Inputs.normal(DType.F32, 51, 1, FEATURES));
        inputs.put("dy", Inputs.normal(DType.F32, 52, 1, ROWS, FEATURES));
    }

    @Override
    public String name() {
        return "rmsnorm";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Object> parameters() {
        return Map.of("eps", EPS);
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("y", LIMIT), new Output("dx", LIMIT).after("y"),
                new Output("dweight", LIMIT).after("y"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor x = on.copy(inputs.get("x"));
            Tensor w = on.copy(inputs.get("weight"));
            Tensor rstd = on.poisoned(DType.F32, ROWS);
            Tensor dWeight = on.copy(Tensor.zeros(DType.F32, FEATURES));
            out.put("y", on.filled(DType.F32, x.shape(), t -> DecoderOps.rmsNorm(s, x, w, EPS, t, rstd)));
            out.put("dx", on.filled(DType.F32, x.shape(), t -> DecoderOps.rmsNormBackward(s,
                    on.copy(inputs.get("dy")), x, w, rstd, null, t, dWeight)));
            out.put("dweight", on.download(dWeight));
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        double[] x = Matrix.of(inputs.get("x")).at();
        double[] dy = Matrix.of(inputs.get("dy")).at();
        double[] w = Matrix.of(inputs.get("weight").view(1, FEATURES)).at();
        Matrix y = new Matrix(ROWS, FEATURES, new double[x.length]);
        Matrix dx = new Matrix(ROWS, FEATURES, new double[x.length]);
        Matrix dWeight = new Matrix(1, FEATURES, new double[FEATURES]);
        double plus = fault == Fault.NORM_WEIGHT_PLUS_ONE ? 1 : 0;
        for (int i = 0; i < ROWS; i++) {
            double squares = 0;
            double along = 0;
            for (int at = i * FEATURES; at < (i + 1) * FEATURES; at++) {
                squares += x[at] * x[at];
                along += dy[at] * (w[at % FEATURES] + plus) * x[at];
            }
            double n = fault == Fault.NORM_SUM_INSTEAD_OF_MEAN ? 1 : FEATURES;
            boolean outside = fault == Fault.NORM_EPSILON_OUTSIDE_ROOT;
            double root = Math.sqrt(squares / n + (outside ? 0 : EPS));
            double rstd = 1 / (root + (outside ? EPS : 0));
            for (int at = i * FEATURES; at < (i + 1) * FEATURES; at++) {
                double g = w[at % FEATURES] + plus;
                y.at()[at] = x[at] * rstd * g;
                dx.at()[at] = rstd * dy[at] * g - x[at] * along * rstd * rstd / (n * root);
                dWeight.at()[at % FEATURES] += dy[at] * x[at] * rstd;
            }
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("y", y.toTensor(DType.F32));
        out.put("dx", dx.toTensor(DType.F32));
        out.put("dweight", dWeight.toTensor(DType.F32).view(FEATURES));
        return out;
    }
}
