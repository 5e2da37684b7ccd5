package qlora4j.verify;

import qlora4j.tensor.Tensor;

/** Comparisons of host tensors that a NaN cannot slip through. */
final class Compare {
    private Compare() {
    }

    /** The bits of element {@code i}; all NaNs alike, their sign and payload are not part of the contract. */
    static long bits(Tensor t, long i) {
        return Double.doubleToLongBits(t.get(i));
    }

    /** Same type, size and bits, the sign of a zero included. */
    static Outcome bits(Tensor ours, Tensor recorded) {
        if (ours.dtype() != recorded.dtype() || ours.size() != recorded.size()) {
            return Outcome.fail("ours is " + ours + ", recorded " + recorded);
        }
        long differing = 0;
        String first = "";
        for (long i = 0; i < recorded.size(); i++) {
            if (bits(ours, i) != bits(recorded, i)) {
                if (differing++ == 0) {
                    first = "element " + i + ": " + ours.get(i) + ", recorded " + recorded.get(i);
                }
            }
        }
        return Outcome.equal(differing, recorded.size(), first);
    }

    /** The largest difference; infinite where the sizes differ or are 0. */
    static double largest(Tensor ours, Tensor recorded) {
        if (ours.size() != recorded.size() || recorded.size() == 0) {
            return Double.POSITIVE_INFINITY;
        }
        double worst = 0;
        for (long i = 0; i < recorded.size(); i++) {
            worst = Math.max(worst, Math.abs(ours.get(i) - recorded.get(i)));
        }
        return worst;
    }

    /** The mean difference; infinite where the sizes differ or are 0. */
    static double mean(Tensor ours, Tensor recorded) {
        if (ours.size() != recorded.size() || recorded.size() == 0) {
            return Double.POSITIVE_INFINITY;
        }
        double sum = 0;
        for (long i = 0; i < recorded.size(); i++) {
            sum += Math.abs(ours.get(i) - recorded.get(i));
        }
        return sum / recorded.size();
    }

    /** The norm of the difference over the recorded norm; infinite where the sizes differ. */
    static double relativeNorm(Tensor ours, Tensor recorded) {
        if (ours.size() != recorded.size() || recorded.size() == 0) {
            return Double.POSITIVE_INFINITY;
        }
        double difference = 0;
        double norm = 0;
        for (long i = 0; i < recorded.size(); i++) {
            double d = ours.get(i) - recorded.get(i);
            difference += d * d;
            norm += recorded.get(i) * recorded.get(i);
        }
        return difference == 0 ? 0 : Math.sqrt(difference / norm);
    }
}
