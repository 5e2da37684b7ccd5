package qlora4j.optim;

/**
 * The hyper-parameters of AdamW for one group of parameters. They do not change during a run; what changes from step to
 * step lies in {@link OptimScalars}.
 *
 * @param formula whose order of operations is followed
 * @param beta1 decay of the first moment, in [0, 1)
 * @param beta2 decay of the second moment, in [0, 1)
 * @param epsilon added to the denominator, at least 0
 * @param weightDecay decoupled decay, multiplied by the learning rate, at least 0
 * @param learningRateScale factor on the learning rate for this group, at least 0
 * @param eightBit whether the moments are held in 8 bits, block by block; with bitsandbytes' formula only
 */
public record AdamHyper(Formula formula, double beta1, double beta2, double epsilon, double weightDecay,
        double learningRateScale, boolean eightBit) {

    /** Two published implementations that agree in real numbers except for the order of weight decay. */
    public enum Formula {
        /** {@code torch.optim.AdamW}: decay first, then {@code p -= lr / c1 * m / (sqrt(v) / c2 + eps)}. */
        TORCH,
        /**
         * The 32-bit kernel of bitsandbytes: {@code p -= lr * c2 / c1 * m / (sqrt(v) + c2 * eps)}, then decay; constants
         * are derived in float32.
         */
        BITSANDBYTES
    }

    /** Moments in 32 bits. */
    public AdamHyper(Formula formula, double beta1, double beta2, double epsilon, double weightDecay,
            double learningRateScale) {
        this(formula, beta1, beta2, epsilon, weightDecay, learningRateScale, false);
    }

    public AdamHyper {
        if (eightBit && formula != Formula.BITSANDBYTES) {
            throw new IllegalArgumentException("8-bit AdamW is bitsandbytes' formula, not " + formula);
        }
        check("--adam-beta1", beta1, beta1 >= 0 && beta1 < 1, "at least 0 and below 1");
        check("--adam-beta2", beta2, beta2 >= 0 && beta2 < 1, "at least 0 and below 1");
        check("--adam-epsilon", epsilon, epsilon >= 0 && epsilon < Double.POSITIVE_INFINITY, "at least 0 and finite");
        check("--weight-decay", weightDecay, weightDecay >= 0 && weightDecay < Double.POSITIVE_INFINITY,
                "at least 0 and finite");
        check("learning-rate scale", learningRateScale,
                learningRateScale >= 0 && learningRateScale < Double.POSITIVE_INFINITY, "at least 0 and finite");
    }

    private static void check(String name, double value, boolean good, String expected) {
        if (!good) {
            throw new IllegalArgumentException(name + " " + value + ": must be " + expected);
        }
    }

    /** Betas 0.9 and 0.999, epsilon 1e-8, no weight decay: the defaults of transformers' TrainingArguments. */
    public static AdamHyper defaults(Formula formula) {
        return new AdamHyper(formula, 0.9, 0.999, 1e-8, 0, 1);
    }

    /** The same with moments in 8 bits. */
    public AdamHyper withEightBit() {
        return new AdamHyper(formula, beta1, beta2, epsilon, weightDecay, learningRateScale, true);
    }

    public AdamHyper withLearningRateScale(double scale) {
        return new AdamHyper(formula, beta1, beta2, epsilon, weightDecay, scale, eightBit);
    }

    public AdamHyper withWeightDecay(double decay) {
        return new AdamHyper(formula, beta1, beta2, epsilon, decay, learningRateScale, eightBit);
    }
}
