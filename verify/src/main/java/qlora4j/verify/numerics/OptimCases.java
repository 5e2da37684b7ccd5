package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamHyper.Formula;
import qlora4j.optim.EightBitKernels;
import qlora4j.optim.Optim;
import qlora4j.optim.OptimScalars;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** The optimizer's operations: all have the same bits everywhere. */
final class OptimCases {
    private static final int PER_ROW = 301;

    private OptimCases() {
    }

    private static Tensor scalars() {
        double[] s = new double[OptimScalars.SIZE];
        s[OptimScalars.LEARNING_RATE] = 1e-2;
        s[OptimScalars.CORRECTION1] = 0.19;
        s[OptimScalars.CORRECTION2] = 0.0447;
        s[OptimScalars.GRAD_SCALE] = 0.5;
        s[OptimScalars.CLIP_SCALE] = 0.25;
        return Tensor.of(s, OptimScalars.SIZE);
    }

    static Map<Result, Tensor> clip(OnBackend on, Samples in) {
        Tensor scalars = on.copy(scalars());
        Optim.clip(on.stream(), on.copy(in.float32(40, 1, (long) in.rows() * PER_ROW)), 0.3, scalars);
        return Map.of(Result.CLIP_NORM, on.download(scalars));
    }

    /**
     * A step of AdamW: the bits of the scalar backend, and how far they are from the step in float64, whose constants are
     * not rounded either. m's magnitude is {@code |m| + (1 - β1)·(|g| + |m|)}, that of the parameters
     * {@code |p| + lr/c1·|m|/(√v/c2 + eps)} with that m.
     */
    static final class AdamW implements Case {
        private static final double DECAY = 0.1;

        /** Parameters, gradient, and both moments. */
        private static Tensor[] inputs(Samples in) {
            long n = (long) in.rows() * PER_ROW;
            Tensor second = in.normal(44, 0.1, n);
            for (long i = 0; i < n; i++) {
                second.set(i, (float) (second.get(i) * second.get(i)));
            }
            return new Tensor[]{in.normal(41, 1, n), in.normal(42, 1, n), in.normal(43, 0.1, n), second};
        }

        @Override
        public Map<Result, Tensor> run(OnBackend on, Samples in) {
            Map<Result, Tensor> out = new EnumMap<>(Result.class);
            for (Formula formula : Formula.values()) {
                Tensor[] t = inputs(in);
                for (int i = 0; i < t.length; i++) {
                    t[i] = on.copy(t[i]);
                }
                Optim.adamW(on.stream(), AdamHyper.defaults(formula).withWeightDecay(DECAY), t[0], t[1], t[2], t[3],
                        on.copy(scalars()));
                boolean torch = formula == Formula.TORCH;
                Tensor params = on.download(t[0]);
                out.put(torch ? Result.ADAMW_TORCH : Result.ADAMW_BITSANDBYTES, params);
                out.put(torch ? Result.ADAMW_TORCH_PARAMS : Result.ADAMW_BITSANDBYTES_PARAMS, params);
                out.put(torch ? Result.ADAMW_TORCH_M : Result.ADAMW_BITSANDBYTES_M, on.download(t[2]));
                out.put(torch ? Result.ADAMW_TORCH_V : Result.ADAMW_BITSANDBYTES_V, on.download(t[3]));
            }
            return out;
        }

        @Override
        public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
            Map<Result, Tensor> m = run(scalar, in);
            AdamHyper h = AdamHyper.defaults(Formula.TORCH);
            Tensor s = scalars();
            Tensor[] t = inputs(in);
            for (long i = 0; i < t[0].size(); i++) {
                double g = t[1].get(i) * s.get(OptimScalars.CLIP_SCALE);
                double first = t[2].get(i) + (1 - h.beta1()) * (g + t[2].get(i));
                double second = m.get(Result.ADAMW_TORCH_V).get(i);
                double step = s.get(OptimScalars.LEARNING_RATE) / s.get(OptimScalars.CORRECTION1) * first
                        / (Math.sqrt(second) / s.get(OptimScalars.CORRECTION2) + h.epsilon());
                m.get(Result.ADAMW_TORCH_M).set(i, first);
                m.get(Result.ADAMW_BITSANDBYTES_M).set(i, first);
                m.get(Result.ADAMW_TORCH_PARAMS).set(i, t[0].get(i) + step);
                m.get(Result.ADAMW_BITSANDBYTES_PARAMS).set(i, t[0].get(i) + step);
            }
            return m;
        }
    }

    static Map<Result, Tensor> adamW8(OnBackend on, Samples in) {
        long n = (long) in.rows() * PER_ROW;
        long blocks = Math.ceilDiv(n, (long) EightBitKernels.BLOCK);
        Tensor params = on.copy(in.float32(41, 1, n));
        Tensor m = on.copy(Tensor.zeros(DType.U8, n).fill(127));
        Tensor v = on.copy(Tensor.zeros(DType.U8, n));
        Tensor absmax1 = on.copy(Tensor.zeros(DType.F32, blocks));
        Tensor absmax2 = on.copy(Tensor.zeros(DType.F32, blocks));
        for (int step = 0; step < 2; step++) {
            Optim.adamW8(on.stream(), AdamHyper.defaults(Formula.BITSANDBYTES).withWeightDecay(0.1), params,
                    on.copy(in.float32(45 + step, 1, n)), m, v, absmax1, absmax2, on.copy(scalars()));
        }
        Tensor all = Tensor.zeros(DType.F32, 3 * n);
        all.slice(0, n).copyFrom(on.download(params));
        for (long i = 0; i < n; i++) {
            all.set(n + i, on.host(m).get(i));
            all.set(2 * n + i, on.host(v).get(i));
        }
        return Map.of(Result.ADAMW_8BIT, all);
    }
}
