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

    static Map<Result, Tensor> adamW(OnBackend on, Samples in) {
        long n = (long) in.rows() * PER_ROW;
        Map<Result, Tensor> out = new EnumMap<>(Result.class);
        for (Formula formula : new Formula[]{Formula.TORCH, Formula.BITSANDBYTES}) {
            Tensor params = on.copy(in.float32(41, 1, n));
            Tensor second = in.float32(44, 0.1, n);
            for (long i = 0; i < n; i++) {
                second.set(i, second.get(i) * second.get(i));
            }
            Optim.adamW(on.stream(), AdamHyper.defaults(formula).withWeightDecay(0.1), params,
                    on.copy(in.float32(42, 1, n)), on.copy(in.float32(43, 0.1, n)), on.copy(second),
                    on.copy(scalars()));
            out.put(formula == Formula.TORCH ? Result.ADAMW_TORCH : Result.ADAMW_BITSANDBYTES, on.download(params));
        }
        return out;
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
