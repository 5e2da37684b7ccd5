package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Bounds of products in tests. */
final class Products64 {
    private Products64() {
    }

    /** Magnitudes in float64. */
    static Tensor magnitude(Tensor t) {
        Tensor out = Tensor.zeros(DType.F64, t.shape());
        for (long i = 0; i < t.size(); i++) {
            out.set(i, Math.abs(t.get(i)));
        }
        return out;
    }

    /**
     * Results agree within {@code relative} of the sum of magnitudes, and a rounding of each to their type: half of
     * 2^-8, 2^-11 or 2^-24 twice, and steps of float16's smallest numbers.
     */
    static void within(Tensor expected, Tensor actual, Tensor magnitude, double relative) {
        double rounding = switch (expected.dtype()) {
            case BF16 -> 0x1p-8;
            case F16 -> 0x1p-11;
            default -> 0x1p-24;
        };
        double smallest = expected.dtype() == DType.F16 ? 0x1p-24 : Float.MIN_VALUE;
        for (long i = 0; i < expected.size(); i++) {
            double e = expected.get(i);
            double a = actual.get(i);
            double bound = relative * magnitude.get(i);
            assertThat(Math.abs(a - e)).as("element %d of %s: %s and %s", i, actual, a, e)
                    .isLessThanOrEqualTo(bound + 2 * rounding * (Math.abs(e) + bound) + smallest);
        }
    }
}
