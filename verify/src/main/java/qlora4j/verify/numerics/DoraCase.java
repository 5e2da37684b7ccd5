package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.lora.Dora;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/**
 * DoRA on a weight in 4 bits, with {@code V = W + s·B·A} and {@code y = (m/‖V‖)·(x·Vᵀ) + bias}. In the magnitudes V is
 * {@code |W| + s·|B|·|A|}, and the norm stays that of V.
 */
final class DoraCase implements Case {
    @Override
    public Map<Result, Tensor> run(OnBackend on, Samples in) {
        return run(on, in, in.parameters(9, 1, Cases.OUT));
    }

    private static Tensor a(Samples in) {
        return in.parameters(5, 0.1, Cases.RANK, Cases.IN);
    }

    private static Tensor b(Samples in) {
        return in.parameters(6, 0.1, Cases.OUT, Cases.RANK);
    }

    private static Map<Result, Tensor> run(OnBackend on, Samples in, Tensor magnitude) {
        Stream s = on.stream();
        LinearWeight w = Cases.weight(on, in);
        Linear linear = new Linear("linear", 0, w, on.copy(in.normal(4, 1, Cases.OUT)));
        Tensor dA = on.copy(Tensor.zeros(in.wide(), Cases.RANK, Cases.IN));
        Tensor dB = on.copy(Tensor.zeros(in.wide(), Cases.OUT, Cases.RANK));
        Tensor dMagnitude = on.copy(Tensor.zeros(in.wide(), Cases.OUT));
        Tensor x = on.copy(in.normal(1, 1, in.rows(), Cases.IN));
        Tensor dy = on.copy(in.normal(2, 1, in.rows(), Cases.OUT));
        Tensor[] u = new Tensor[1];
        Map<Result, Tensor> out = new EnumMap<>(Result.class);
        try (Dora dora = new Dora(on.backend(), w, on.copy(magnitude), dMagnitude)) {
            linear.set(0, new LoraPair(on.copy(a(in)), on.copy(b(in)), Cases.SCALE, dA, dB, dora));
            Linear.Adapters use = Linear.Adapters.of(0);
            out.put(Result.DORA_Y,
                    on.filled(in.type(), dy.shape(), t -> u[0] = linear.forward(s, use, x, null, t)));
            out.put(Result.DORA_DX,
                    on.filled(in.type(), x.shape(), t -> linear.backward(s, use, dy, x, u[0], false, t)));
            s.release(u[0]);
        }
        out.put(Result.DORA_DA, on.download(dA));
        out.put(Result.DORA_DB, on.download(dB));
        out.put(Result.DORA_DMAGNITUDE, on.download(dMagnitude));
        return out;
    }

    @Override
    public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
        double[] norms = norms(scalar, in.signed());
        double[] absolute = norms(scalar, in);
        Tensor magnitude = in.parameters(9, 1, Cases.OUT);
        // So that the run on absolute values divides by V's norm: what it takes for the norm is that of |W| + s|B||A|.
        for (int j = 0; j < norms.length; j++) {
            magnitude.set(j, magnitude.get(j) * absolute[j] / norms[j]);
        }
        Map<Result, Tensor> m = run(scalar, in, magnitude);
        Tensor dMagnitude = m.get(Result.DORA_DMAGNITUDE);
        for (int j = 0; j < norms.length; j++) {
            dMagnitude.set(j, dMagnitude.get(j) * absolute[j] / norms[j]);
        }
        return m;
    }

    /** The norms of the rows of {@code W + s·B·A}. */
    private static double[] norms(OnBackend scalar, Samples in) {
        Tensor v = Tensor.zeros(DType.F64, Cases.OUT, Cases.IN)
                .copyFrom(((LinearWeight.Dense) Cases.weight(scalar, in)).w());
        Matmul.nn(scalar.stream(), b(in), a(in), Cases.SCALE, v, true);
        double[] norms = new double[Cases.OUT];
        for (int j = 0; j < norms.length; j++) {
            for (int k = 0; k < Cases.IN; k++) {
                norms[j] += Math.pow(v.get((long) j * Cases.IN + k), 2);
            }
            norms[j] = Math.sqrt(norms[j]);
        }
        return norms;
    }
}
