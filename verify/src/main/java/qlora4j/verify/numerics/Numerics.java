package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/**
 * Measures a backend. The error of an element is {@code |result - exact| / ulp(M)}: {@code exact} is the scalar kernel on
 * the same numbers in float64, and {@code M} is its magnitude, the same expression with every term that is added replaced
 * by its absolute value, so that cancellation is the problem's and not the kernel's (componentwise, Higham 2002, section
 * 3.1; {@code ulp(M)} is the distance of float32 numbers at M, Muller et al. 2018, section 2.3). Where nothing is
 * subtracted M is {@code |exact|} and the error is one in ulp.
 */
public final class Numerics {
    /** Seeds that each case is run with. */
    public static final int SEEDS = 3;

    private Numerics() {
    }

    /** The largest error of each result over all sizes and seeds; infinite where a NaN is. */
    public static Map<Result, Double> measure(Backend backend) {
        Map<Result, Double> worst = new EnumMap<>(Result.class);
        try (Backend scalar = Backends.open(Backend.SCALAR); Stream reference = scalar.openStream();
                Stream stream = backend.openStream()) {
            OnBackend on = new OnBackend(backend, stream);
            OnBackend exactly = new OnBackend(scalar, reference);
            for (int rows : Cases.ROWS) {
                for (int seed = 0; seed < SEEDS; seed++) {
                    Samples in = new Samples(rows, seed, DType.F32, DType.F32, false);
                    Cases.ALL.forEach(c -> compare(c, in, on, exactly, worst));
                    Samples rounded = new Samples(rows, seed, DType.BF16, DType.BF16, false);
                    Cases.BFLOAT16.forEach(c -> compare(c, rounded, on, exactly, worst));
                }
            }
        }
        return worst;
    }

    private static void compare(Case c, Samples in, OnBackend on, OnBackend exactly, Map<Result, Double> worst) {
        Map<Result, Tensor> results = c.run(on, in);
        Map<Result, Tensor> same = c.run(exactly, in);
        Map<Result, Tensor> wide =
                c.run(exactly, new Samples(in.rows(), in.seed(), in.values(), DType.F64, false));
        Map<Result, Tensor> magnitudes =
                c.magnitudes(exactly, new Samples(in.rows(), in.seed(), in.values(), DType.F64, true));
        results.forEach((of, t) -> {
            Result r = in.values() == DType.BF16 ? of.inBfloat16() : of;
            if (r != null) {
                worst.merge(r, r.isExact() ? bits(t, same.get(of))
                        : error(t, wide.get(of), magnitudes.getOrDefault(of, wide.get(of))), Math::max);
            }
        });
    }

    /** Elements that differ; exact results have a budget of none. */
    private static double bits(Tensor a, Tensor b) {
        return a.dtype() == b.dtype() && a.data().mismatch(b.data()) < 0 ? 0 : Double.POSITIVE_INFINITY;
    }

    /** The largest error in units in the last place of the magnitudes: bfloat16's for such a result, else float32's. */
    static double error(Tensor result, Tensor exact, Tensor magnitude) {
        double unit = result.dtype() == DType.BF16 ? 1 << Float.SIZE - Short.SIZE : 1;
        double worst = 0;
        for (long i = 0; i < exact.size(); i++) {
            double e = Math.abs(result.get(i) - exact.get(i)) / (unit * Math.ulp((float) Math.abs(magnitude.get(i))));
            if (Double.isNaN(e)) {
                return Double.POSITIVE_INFINITY;
            }
            worst = Math.max(worst, e);
        }
        return worst;
    }
}
