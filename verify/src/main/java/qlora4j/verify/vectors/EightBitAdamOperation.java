package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.DynamicMap;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamHyper.Formula;
import qlora4j.optim.AdamW;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** AdamW with 8-bit block-wise moments, two blocks, the second one short: section 8. */
final class EightBitAdamOperation implements Operation {
    private static final int STEPS = 4;
    private static final int BLOCK = 256;
    private static final int ELEMENTS = BLOCK + 64;
    private static final double RATE = 0.01;
    private static final double DECAY = 0.1;
    /** As in 32 bits, and constants alike. */
    private static final double LIMIT = 1e-6;

    /** Larger than usual, so that an element whose second moment is rounded to 0 moves by little. */
    private static final double EPSILON = 1e-4;
    /** Every so many elements have gradients so small that the nearest code of their first moment is that of 0. */
    private static final int SMALL_EVERY = 16;
    private static final double SMALL = 1e-8;

    private final AdamHyper hyper = new AdamHyper(Formula.BITSANDBYTES, 0.9, 0.999, EPSILON, DECAY, 1, true);
    private final Tensor start = Inputs.normal(DType.F32, 70, 1, ELEMENTS);
    private final Tensor gradients = Inputs.normal(DType.F32, 71, 0.5, STEPS, ELEMENTS);

    EightBitAdamOperation() {
        for (int i = 0; i < gradients.size(); i += SMALL_EVERY) {
            gradients.set(i, gradients.get(i) * SMALL);
        }
    }

    @Override
    public String name() {
        return "adamw.bitsandbytes8";
    }

    @Override
    public String section() {
        return "8";
    }

    @Override
    public Map<String, Object> parameters() {
        Map<String, Object> p = AdamOperation.parameters(hyper, RATE);
        p.put("blocksize", BLOCK);
        return p;
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of("params", start, "grads", gradients);
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("absmax1", LIMIT), new Output("absmax2", LIMIT),
                Output.exact("state1", "absmax1"), Output.exact("state2", "absmax2"),
                new Output("params", LIMIT).after("state1", "state2"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream();
                ParameterStore store = ParameterStore.builder().add("p", ELEMENTS).build(backend);
                AdamW adam = new AdamW(backend, store, Map.of(ParameterStore.DEFAULT_GROUP, hyper), Residency.ALL,
                        null)) {
            backend.upload(start, store.param("p"));
            for (int step = 0; step < STEPS; step++) {
                backend.upload(gradients.rows(step, step + 1).view(ELEMENTS), store.grad("p"));
                adam.prepare(RATE, 1);
                adam.clip(s, Double.POSITIVE_INFINITY);
                adam.update(s);
            }
            s.synchronize();
            for (int state = 0; state < AdamW.STATES_8BIT.size(); state++) {
                boolean codes = state < 2;
                Tensor t = Tensor.zeros(codes ? DType.U8 : DType.F32,
                        codes ? ELEMENTS : Math.ceilDiv(ELEMENTS, BLOCK));
                adam.states().read(state, 0, t);
                out.put(AdamW.STATES_8BIT.get(state), t);
            }
            Tensor params = Tensor.zeros(DType.F32, ELEMENTS);
            backend.download(store.param("p"), params);
            out.put("params", params);
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        float[] p = start.toFloats();
        float[] m = new float[ELEMENTS];
        float[] v = new float[ELEMENTS];
        int blocks = Math.ceilDiv(ELEMENTS, BLOCK);
        Tensor[] codes = {Tensor.zeros(DType.U8, ELEMENTS), Tensor.zeros(DType.U8, ELEMENTS)};
        Tensor[] absmax = {Tensor.zeros(DType.F32, blocks), Tensor.zeros(DType.F32, blocks)};
        for (int step = 0; step < STEPS; step++) {
            float[] g = gradients.rows(step, step + 1).toFloats();
            step(p, m, v, g, step + 1, fault);
            round(m, DynamicMap.SIGNED, codes[0], absmax[0], fault);
            round(v, fault == Fault.SECOND_MOMENT_IN_SIGNED_MAP ? DynamicMap.SIGNED : DynamicMap.UNSIGNED, codes[1],
                    absmax[1], fault);
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("absmax1", absmax[0]);
        out.put("absmax2", absmax[1]);
        out.put("state1", codes[0]);
        out.put("state2", codes[1]);
        out.put("params", Tensor.of(p, ELEMENTS));
        return out;
    }

    /** bitsandbytes' formula, constants derived and all operations rounded in float32. */
    private void step(float[] p, float[] m, float[] v, float[] g, int t, Fault fault) {
        float lr = (float) RATE;
        float beta1 = (float) hyper.beta1();
        float beta2 = (float) hyper.beta2();
        boolean corrected = fault != Fault.NO_BIAS_CORRECTION;
        float c1 = corrected ? 1 - (float) Math.pow(beta1, t) : 1;
        float c2 = corrected ? (float) Math.sqrt(1 - (float) Math.pow(beta2, t)) : 1;
        boolean coupled = fault == Fault.WEIGHT_DECAY_COUPLED;
        float shrink = coupled ? 1 : 1 - (fault == Fault.WEIGHT_DECAY_UNSCALED ? 1 : lr) * (float) DECAY;
        float size = -lr * c2 / c1;
        float epsilon = (float) hyper.epsilon() * c2;
        for (int i = 0; i < p.length; i++) {
            float gradient = coupled ? g[i] + (float) DECAY * p[i] : g[i];
            m[i] = m[i] * beta1 + (1 - beta1) * gradient;
            v[i] = v[i] * beta2 + (1 - beta2) * gradient * gradient;
            p[i] = (p[i] + size * (m[i] / ((float) Math.sqrt(v[i]) + epsilon))) * shrink;
        }
    }

    /** Moments to codes and back, so that the next step starts from what is held. */
    private static void round(float[] moments, DynamicMap map, Tensor codes, Tensor absmax, Fault fault) {
        boolean wholeTensor = fault == Fault.ONE_CONSTANT_FOR_ALL;
        for (int from = 0; from < moments.length; from += BLOCK) {
            int to = Math.min(from + BLOCK, moments.length);
            float largest = 0;
            for (int i = wholeTensor ? 0 : from; i < (wholeTensor ? moments.length : to); i++) {
                largest = Math.max(largest, Math.abs(moments[i]));
            }
            absmax.set(from / BLOCK, largest);
        }
        for (int i = 0; i < moments.length; i++) {
            float largest = (float) absmax.get(i / BLOCK);
            int code = map.code(moments[i] / largest);
            boolean kept = map == DynamicMap.SIGNED && fault != Fault.SIGN_NOT_KEPT;
            if (kept && moments[i] != 0 && (map.value(code) < 0) != (moments[i] < 0)) {
                code += moments[i] > 0 ? 1 : -1;
            }
            codes.set(i, code);
            moments[i] = fault == Fault.MOMENTS_NOT_QUANTIZED ? moments[i] : map.value(code) * largest;
        }
    }
}
