package qlora4j.optim;

import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * What one call of AdamW multiplies by, derived from the group's hyper-parameters and the step's scalars, rounded to
 * the element type. Host backends share it.
 *
 * @param beta1 {@code beta1}
 * @param oneMinusBeta1 {@code 1 - beta1}
 * @param beta2 {@code beta2}
 * @param oneMinusBeta2 {@code 1 - beta2}
 * @param stepSize TORCH: {@code -lr / c1}; BITSANDBYTES: {@code -lr * c2 / c1}
 * @param correction2 {@code c2}
 * @param epsilon TORCH: {@code eps}; BITSANDBYTES: {@code eps * c2}
 * @param decay {@code 1 - lr * weightDecay}
 * @param gradScale {@code CLIP_SCALE}
 */
record AdamConstants(double beta1, double oneMinusBeta1, double beta2, double oneMinusBeta2, double stepSize,
        double correction2, double epsilon, double decay, double gradScale) {

    static AdamConstants of(AdamHyper h, Tensor scalars, DType dtype) {
        double lr = scalars.get(OptimScalars.LEARNING_RATE) * h.learningRateScale();
        double c1 = scalars.get(OptimScalars.CORRECTION1);
        double c2 = scalars.get(OptimScalars.CORRECTION2);
        double scale = round(dtype, scalars.get(OptimScalars.CLIP_SCALE));
        return switch (h.formula()) {
            case TORCH -> new AdamConstants(round(dtype, h.beta1()), round(dtype, 1 - h.beta1()),
                    round(dtype, h.beta2()), round(dtype, 1 - h.beta2()), round(dtype, -(lr / c1)), round(dtype, c2),
                    round(dtype, h.epsilon()), round(dtype, 1 - lr * h.weightDecay()), scale);
            case BITSANDBYTES -> {
                double r = round(dtype, lr);
                double beta1 = round(dtype, h.beta1());
                double beta2 = round(dtype, h.beta2());
                double k2 = round(dtype, c2);
                double step = round(dtype, round(dtype, -r * k2) / round(dtype, c1));
                double decay = round(dtype, 1 - round(dtype, r * round(dtype, h.weightDecay())));
                yield new AdamConstants(beta1, round(dtype, 1 - beta1), beta2, round(dtype, 1 - beta2), step, k2,
                        round(dtype, round(dtype, h.epsilon()) * k2), decay, scale);
            }
        };
    }

    /**
     * {@code x} rounded to {@code dtype}. A sum, product, quotient or square root of two floats that is computed in
     * double and then rounded equals the operation in float: 53 bits are more than twice 24 and two.
     */
    static double round(DType dtype, double x) {
        return dtype == DType.F32 ? (float) x : x;
    }
}
