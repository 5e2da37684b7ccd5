package qlora4j.bench;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.DecoderConfig;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.train.TrainSettings;
import qlora4j.train.Trainer;
import qlora4j.train.data.GlobalBatch;

/**
 * Before a backend is timed it must compute the right thing: the losses of a few training steps of a tiny random model,
 * which is the same on every backend, against those of the scalar backend. The later losses depend on the gradients and
 * on the optimizer of the earlier steps.
 */
final class LossCheck {
    private static final int STEPS = 3;
    private static final int ROWS = 2;
    private static final int LENGTH = 24;
    /** High, so that three steps change the loss by more than the tolerance many times over. */
    private static final double RATE = 0.02;
    /** Sums of about a hundred float32 terms in another order, through two layers and back. */
    private static final double FLOAT_TOLERANCE = 1e-4;
    /** Activations have 8 bits: each is off by up to 2^-8 of itself, differently where sums are rounded differently. */
    private static final double BFLOAT_TOLERANCE = 1e-2;

    private LossCheck() {
    }

    /**
     * Compares, and says so in a line; an error where the losses differ by more than the tolerance, relative to the
     * scalar backend's.
     */
    static String run(Backend backend, DType type) {
        double[] here = losses(backend, type);
        double[] scalar;
        try (Backend oracle = Backends.open(Backend.SCALAR)) {
            scalar = losses(oracle, type);
        }
        return compare(here, scalar, type == DType.F32 ? FLOAT_TOLERANCE : BFLOAT_TOLERANCE);
    }

    static String compare(double[] here, double[] scalar, double tolerance) {
        double worst = 0;
        for (int i = 0; i < scalar.length; i++) {
            double off = Math.abs(here[i] - scalar[i]) / Math.abs(scalar[i]);
            if (!(off <= tolerance)) {
                throw new IllegalStateException(String.format(Locale.ROOT,
                        "training step %d of a tiny model has loss %s here and %s on the scalar backend, more than %s"
                                + " apart: what this backend computes is wrong, so it is not timed",
                        i + 1, here[i], scalar[i], tolerance));
            }
            worst = Math.max(worst, off);
        }
        return String.format(Locale.ROOT, "check: losses of %d steps of a tiny model %s, scalar %s, at most %.1e apart",
                scalar.length, format(here), format(scalar), worst);
    }

    private static String format(double[] losses) {
        return String.join(" ",
                Arrays.stream(losses).mapToObj(l -> String.format(Locale.ROOT, "%.5f", l)).toList());
    }

    private static double[] losses(Backend backend, DType type) {
        DecoderConfig shape = Shapes.named(Shapes.TINY);
        GlobalBatch batch = RandomBatch.of(shape.vocab(), ROWS, LENGTH);
        LoraConfig lora = new LoraConfig(8, 16, 0, List.of(LoraConfig.ALL_LINEAR), null, BenchSettings.SEED);
        try (RandomWeights.Model model = RandomWeights.model(backend, shape, type, BenchSettings.QUANTIZE, 7);
                Adapter adapter = Adapter.create(model.decoder(), 0, lora);
                Trainer trainer = new Trainer(model.decoder(), adapter.parameters(), adapter.slot(), 0,
                        TrainSettings.defaults().withMaxSteps(STEPS).withBatch(ROWS, LENGTH).withLearningRate(RATE),
                        STEPS, RandomBatch.largest(batch), null)) {
            double[] losses = new double[STEPS];
            for (int i = 0; i < STEPS; i++) {
                losses[i] = trainer.step(batch).loss();
            }
            return losses;
        }
    }
}
