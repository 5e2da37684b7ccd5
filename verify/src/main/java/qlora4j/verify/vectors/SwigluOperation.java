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

/** SwiGLU and its gradient: section 7. */
final class SwigluOperation implements Operation {
    private static final int ELEMENTS = 40;
    /** Products of three numbers below 6 and an exponential within some ulp. */
    private static final double LIMIT = 1e-5;

    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    SwigluOperation() {
        inputs.put("gate", Inputs.normal(DType.F32, 53, 2, 1, ELEMENTS));
        inputs.put("up", Inputs.normal(DType.F32, 54, 1, 1, ELEMENTS));
        inputs.put("dy", Inputs.normal(DType.F32, 55, 1, 1, ELEMENTS));
    }

    @Override
    public String name() {
        return "swiglu";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("y", LIMIT), new Output("dgate", LIMIT).after("y"),
                new Output("dup", LIMIT).after("y"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor gate = on.copy(inputs.get("gate"));
            Tensor up = on.copy(inputs.get("up"));
            Tensor dUp = on.poisoned(DType.F32, up.shape());
            out.put("y", on.filled(DType.F32, up.shape(), t -> DecoderOps.swiglu(s, gate, up, t)));
            out.put("dgate", on.filled(DType.F32, up.shape(),
                    t -> DecoderOps.swigluBackward(s, on.copy(inputs.get("dy")), gate, up, t, dUp)));
            out.put("dup", on.download(dUp));
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        boolean swapped = fault == Fault.GATE_AND_UP_SWAPPED;
        Tensor dy = inputs.get("dy");
        Tensor y = Tensor.zeros(DType.F32, dy.shape());
        Tensor dGate = Tensor.zeros(DType.F32, dy.shape());
        Tensor dUp = Tensor.zeros(DType.F32, dy.shape());
        for (int i = 0; i < ELEMENTS; i++) {
            double g = inputs.get(swapped ? "up" : "gate").get(i);
            double u = inputs.get(swapped ? "gate" : "up").get(i);
            double share;
            double slope;
            if (fault == Fault.GELU_INSTEAD_OF_SILU) {
                double c = Math.sqrt(2 / Math.PI);
                double t = StrictMath.tanh(c * (g + 0.044715 * g * g * g));
                share = (1 + t) / 2;
                slope = (1 - t * t) / 2 * c * (1 + 3 * 0.044715 * g * g);
            } else {
                share = 1 / (1 + StrictMath.exp(-g));
                slope = share * (1 - share);
            }
            y.set(i, g * share * u);
            (swapped ? dUp : dGate).set(i, dy.get(i) * u * (share + g * slope));
            (swapped ? dGate : dUp).set(i, dy.get(i) * g * share);
        }
        return Map.of("y", y, "dgate", dGate, "dup", dUp);
    }
}
