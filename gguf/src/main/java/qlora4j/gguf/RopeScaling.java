package qlora4j.gguf;

import qlora4j.model.RopeConfig;

/**
 * Llama 3's rope scaling. Hugging Face gives its four parameters; llama.cpp a tensor of what each pair's frequency is
 * divided by, from which they are found again.
 */
final class RopeScaling {
    /** As all published models have it: the context of the pre-training, in tokens. Others are tried after it. */
    private static final int ORIGINAL_POSITIONS = 8192;
    private static final int LONGEST = 1 << 20;
    /** As all published models have them: what bounds the blend. */
    private static final double LOW = 1;
    private static final double HIGH = 4;
    /** The tensor is computed in float32 in a few operations; a wrong parameter changes it by much more. */
    private static final double TOLERANCE = 1e-4;

    private RopeScaling() {
    }

    /** What the frequency of each pair is divided by, {@code [headDim / 2]}. */
    static float[] factors(RopeConfig rope, int headDim) {
        float[] factors = new float[headDim / 2];
        double longest = rope.originalMaxPositions() / rope.lowFreqFactor();
        double shortest = rope.originalMaxPositions() / rope.highFreqFactor();
        for (int i = 0; i < factors.length; i++) {
            double wavelength = 2 * Math.PI * Math.pow(rope.theta(), 2.0 * i / headDim);
            if (wavelength < shortest) {
                factors[i] = 1;
            } else if (wavelength > longest) {
                factors[i] = (float) rope.factor();
            } else {
                double smooth = (rope.originalMaxPositions() / wavelength - rope.lowFreqFactor())
                        / (rope.highFreqFactor() - rope.lowFreqFactor());
                factors[i] = (float) (1 / ((1 - smooth) / rope.factor() + smooth));
            }
        }
        return factors;
    }

    /** The scaling that has these factors; null where none of the known ones does. */
    static RopeConfig of(double theta, float[] factors) {
        double largest = 1;
        for (float f : factors) {
            largest = Math.max(largest, f);
        }
        if (largest == 1) {
            return RopeConfig.unscaled(theta);
        }
        for (int positions = ORIGINAL_POSITIONS; positions <= LONGEST; positions *= 2) {
            if (fits(scaled(theta, largest, positions), factors)) {
                return scaled(theta, largest, positions);
            }
        }
        for (int positions = ORIGINAL_POSITIONS / 2; positions > 0; positions /= 2) {
            if (fits(scaled(theta, largest, positions), factors)) {
                return scaled(theta, largest, positions);
            }
        }
        return null;
    }

    private static RopeConfig scaled(double theta, double factor, int positions) {
        return new RopeConfig(theta, RopeConfig.Type.LLAMA3, factor, LOW, HIGH, positions);
    }

    private static boolean fits(RopeConfig guess, float[] factors) {
        float[] expected = factors(guess, factors.length * 2);
        for (int i = 0; i < factors.length; i++) {
            if (!(Math.abs(expected[i] - factors[i]) <= TOLERANCE * expected[i])) {
                return false;
            }
        }
        return true;
    }
}
