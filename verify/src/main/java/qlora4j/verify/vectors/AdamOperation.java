package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamHyper.Formula;
import qlora4j.optim.AdamW;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Clipping and AdamW over two tensors for a few steps, in either formula: section 8. */
final class AdamOperation implements Operation {
    private static final int STEPS = 5;
    private static final long[] SIZES = {40, 24};
    private static final int ELEMENTS = 64;
    private static final double RATE = 0.01;
    private static final double DECAY = 0.1;
    /** So large that its place in the formula shows. */
    private static final double EPSILON = 1e-3;
    private static final double MAX_NORM = 2;
    /** A fused multiply-add moves a parameter of magnitude 1 by an ulp a step, and a state likewise. */
    private static final double LIMIT = 1e-6;

    private final Formula formula;
    private final AdamHyper hyper;
    private final Tensor start = Inputs.normal(DType.F32, 30, 1, ELEMENTS);
    private final Tensor gradients;

    AdamOperation(Formula formula) {
        this.formula = formula;
        AdamHyper d = AdamHyper.defaults(formula);
        hyper = new AdamHyper(formula, d.beta1(), d.beta2(), EPSILON, DECAY, 1);
        gradients = Inputs.normal(DType.F32, 31, 0.5, STEPS, ELEMENTS);
        // The second tensor's are larger, so that clipping it alone is another thing; in the last step nothing is clipped.
        for (int i = 0; i < gradients.size(); i++) {
            int column = i % ELEMENTS;
            double factor = (column < SIZES[0] ? 1 : 3) * (i / ELEMENTS == STEPS - 1 ? 0.01 : 1);
            gradients.set(i, gradients.get(i) * factor);
        }
    }

    @Override
    public String name() {
        return "adamw." + formula.name().toLowerCase(Locale.ROOT);
    }

    @Override
    public String section() {
        return "8";
    }

    @Override
    public Map<String, Object> parameters() {
        Map<String, Object> p = parameters(hyper, RATE);
        p.put("max_grad_norm", MAX_NORM);
        p.put("tensors", SIZES);
        return p;
    }

    /** What every AdamW needs, by PyTorch's names. */
    static Map<String, Object> parameters(AdamHyper hyper, double rate) {
        Map<String, Object> p = new LinkedHashMap<>();
        p.put("lr", rate);
        p.put("betas", List.of(hyper.beta1(), hyper.beta2()));
        p.put("eps", hyper.epsilon());
        p.put("weight_decay", hyper.weightDecay());
        return p;
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of("params", start, "grads", gradients);
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("grad_norms", LIMIT), new Output("exp_avg", LIMIT).after("grad_norms"),
                new Output("exp_avg_sq", LIMIT).after("exp_avg"),
                new Output("params", LIMIT).after("exp_avg", "exp_avg_sq"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Tensor norms = Tensor.zeros(DType.F32, STEPS);
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream();
                ParameterStore store = ParameterStore.builder().add("a", SIZES[0]).add("b", SIZES[1]).build(backend);
                AdamW adam = new AdamW(backend, store, Map.of(ParameterStore.DEFAULT_GROUP, hyper), Residency.ALL,
                        null)) {
            backend.upload(start.slice(0, SIZES[0]), store.param("a"));
            backend.upload(start.slice(SIZES[0], SIZES[1]), store.param("b"));
            for (int step = 0; step < STEPS; step++) {
                Tensor g = gradients.rows(step, step + 1).view(ELEMENTS);
                backend.upload(g.slice(0, SIZES[0]), store.grad("a"));
                backend.upload(g.slice(SIZES[0], SIZES[1]), store.grad("b"));
                adam.prepare(RATE, 1);
                adam.clip(s, MAX_NORM);
                adam.update(s);
                s.synchronize();
                norms.set(step, adam.gradNorm());
            }
            out.put("grad_norms", norms);
            long second = store.offset("b");
            for (int state = 0; state < AdamW.STATES.size(); state++) {
                Tensor all = Tensor.zeros(DType.F32, store.flatSize());
                adam.states().read(state, 0, all);
                out.put(AdamW.STATES.get(state), joined(all, second));
            }
            Tensor params = Tensor.zeros(DType.F32, store.flatSize());
            backend.download(store.flatParams(), params);
            out.put("params", joined(params, second));
        }
        return out;
    }

    private static Tensor joined(Tensor flat, long second) {
        Tensor t = Tensor.zeros(DType.F32, ELEMENTS);
        t.slice(0, SIZES[0]).copyFrom(flat.slice(0, SIZES[0]));
        t.slice(SIZES[0], SIZES[1]).copyFrom(flat.slice(second, SIZES[1]));
        return t;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        double[] p = Matrix.of(start).at();
        double[] m = new double[ELEMENTS];
        double[] v = new double[ELEMENTS];
        Tensor norms = Tensor.zeros(DType.F32, STEPS);
        for (int step = 0; step < STEPS; step++) {
            double[] g = Matrix.of(gradients.rows(step, step + 1)).at();
            norms.set(step, norm(g, 0, ELEMENTS));
            clip(g, fault);
            step(p, m, v, g, step + 1, fault);
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("grad_norms", norms);
        out.put("exp_avg", flat(m));
        out.put("exp_avg_sq", flat(v));
        out.put("params", flat(p));
        return out;
    }

    private static Tensor flat(double[] values) {
        return new Matrix(1, values.length, values).toTensor(DType.F32).view(values.length);
    }

    private static double norm(double[] g, int from, int to) {
        double sum = 0;
        for (int i = from; i < to; i++) {
            sum += g[i] * g[i];
        }
        return Math.sqrt(sum);
    }

    private static void clip(double[] g, Fault fault) {
        int border = (int) SIZES[0];
        switch (fault) {
            case NOT_CLIPPED -> {
            }
            case CLIPPED_TENSOR_BY_TENSOR -> {
                clip(g, 0, border);
                clip(g, border, ELEMENTS);
            }
            case null, default -> clip(g, 0, ELEMENTS);
        }
    }

    private static void clip(double[] g, int from, int to) {
        double factor = Math.min(1, MAX_NORM / (norm(g, from, to) + 1e-6));
        for (int i = from; i < to; i++) {
            g[i] *= factor;
        }
    }

    private void step(double[] p, double[] m, double[] v, double[] g, int t, Fault fault) {
        boolean corrected = fault != Fault.NO_BIAS_CORRECTION;
        double c1 = corrected ? 1 - Math.pow(hyper.beta1(), t) : 1;
        double c2 = corrected ? 1 - Math.pow(hyper.beta2(), t) : 1;
        boolean coupled = fault == Fault.WEIGHT_DECAY_COUPLED;
        double shrink = coupled ? 1 : 1 - (fault == Fault.WEIGHT_DECAY_UNSCALED ? DECAY : RATE * DECAY);
        for (int i = 0; i < p.length; i++) {
            double gradient = coupled ? g[i] + DECAY * p[i] : g[i];
            m[i] = hyper.beta1() * m[i] + (1 - hyper.beta1()) * gradient;
            v[i] = hyper.beta2() * v[i] + (1 - hyper.beta2()) * gradient * gradient;
            double denominator = fault == Fault.EPSILON_INSIDE_ROOT ? Math.sqrt(v[i] / c2 + EPSILON)
                    : Math.sqrt(v[i] / c2) + EPSILON;
            double moved = RATE / c1 * m[i] / denominator;
            p[i] = formula == Formula.TORCH ? p[i] * shrink - moved : (p[i] - moved) * shrink;
        }
    }
}
