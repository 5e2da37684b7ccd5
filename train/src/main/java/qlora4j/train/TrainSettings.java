package qlora4j.train;

import java.util.LinkedHashMap;
import java.util.Map;
import qlora4j.model.Adapter;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Residency;
import qlora4j.optim.Schedule;
import qlora4j.tensor.ParameterStore;

/**
 * How a run trains; names and defaults are those of transformers' TrainingArguments and the QLoRA paper.
 *
 * @param maxSteps optimizer steps; 0: as many as {@code epochs} take
 * @param epochs passes over the data, when maxSteps is 0
 * @param perDeviceBatch rows of a micro-batch
 * @param accumulation micro-batches of a step
 * @param maxLength the most tokens of a row
 * @param learningRate at the schedule's top
 * @param schedule how it changes
 * @param warmupRatio the share of steps in which it rises
 * @param maxGradNorm the global norm gradients are clipped to; infinity: not clipped
 * @param adam formula, betas, epsilon, weight decay
 * @param resident how much of the optimizer's state stays in memory
 * @param checkpointing run each layer's forward again in the backward instead of keeping its activations
 * @param loggingSteps steps between metrics lines
 * @param saveSteps steps between checkpoints; 0: none
 * @param saveLimit checkpoints that are kept, the newest; 0: all
 * @param evalSteps steps between evaluations; 0: only before the first and after the last
 * @param seed of the order of rows, of dropout and of the adapter
 * @param loraPlusRatio what the learning rate of B, magnitudes, biases and norms is multiplied with (Hayou et al. 2024,
 *     LoRA+); 1 for plain LoRA
 * @param selection which checkpoint the run ends with, and whether it stops early
 * @param groupByLength whether rows of about the same length are put into the same step
 * @param neftuneAlpha the noise on embeddings in training (Jain et al. 2023, NEFTune); 0: none
 * @param offloadActivations whether the inputs of checkpointed layers wait in host memory below a GPU
 */
public record TrainSettings(int maxSteps, double epochs, int perDeviceBatch, int accumulation, int maxLength,
        double learningRate, Schedule schedule, double warmupRatio, double maxGradNorm, AdamHyper adam,
        Residency resident, boolean checkpointing, int loggingSteps, int saveSteps, int saveLimit, int evalSteps,
        long seed, double loraPlusRatio, Selection selection, boolean groupByLength, double neftuneAlpha,
        boolean offloadActivations) {
    public TrainSettings {
        if (offloadActivations && !checkpointing) {
            throw new IllegalArgumentException("--offload-activations needs --gradient-checkpointing: it moves the"
                    + " inputs of checkpointed layers to host memory");
        }
        if (!(neftuneAlpha >= 0) || Double.isInfinite(neftuneAlpha)) {
            throw new IllegalArgumentException("--neftune-noise-alpha " + neftuneAlpha
                    + ": must be a number of 0 or more");
        }
        if (!(loraPlusRatio > 0) || Double.isInfinite(loraPlusRatio)) {
            throw new IllegalArgumentException("--loraplus-lr-ratio " + loraPlusRatio + ": must be a positive number");
        }
        atLeast("--max-steps", maxSteps, 0);
        atLeast("--per-device-train-batch-size", perDeviceBatch, 1);
        atLeast("--gradient-accumulation-steps", accumulation, 1);
        atLeast("--max-seq-length", maxLength, 2);
        atLeast("--logging-steps", loggingSteps, 1);
        atLeast("--save-steps", saveSteps, 0);
        atLeast("--save-total-limit", saveLimit, 0);
        atLeast("--eval-steps", evalSteps, 0);
        if (maxSteps == 0 && !(epochs > 0)) {
            throw new IllegalArgumentException("--num-train-epochs " + epochs + ": must be above 0");
        }
        if (!(learningRate >= 0) || Double.isInfinite(learningRate)) {
            throw new IllegalArgumentException("--learning-rate " + learningRate + ": must be a number of 0 or more");
        }
        if (!(maxGradNorm > 0)) {
            throw new IllegalArgumentException("--max-grad-norm " + maxGradNorm
                    + ": must be above 0 (Infinity: no clipping)");
        }
        if (!(warmupRatio >= 0 && warmupRatio <= 1)) {
            throw new IllegalArgumentException("--warmup-ratio " + warmupRatio + ": must be between 0 and 1");
        }
    }

    /** Plain LoRA: one learning rate for all parameters. */
    public TrainSettings(int maxSteps, double epochs, int perDeviceBatch, int accumulation, int maxLength,
            double learningRate, Schedule schedule, double warmupRatio, double maxGradNorm, AdamHyper adam,
            Residency resident, boolean checkpointing, int loggingSteps, int saveSteps, int saveLimit, int evalSteps,
            long seed) {
        this(maxSteps, epochs, perDeviceBatch, accumulation, maxLength, learningRate, schedule, warmupRatio,
                maxGradNorm, adam, resident, checkpointing, loggingSteps, saveSteps, saveLimit, evalSteps, seed, 1,
                Selection.LAST, false, 0, false);
    }

    private static void atLeast(String flag, int value, int least) {
        if (value < least) {
            throw new IllegalArgumentException(flag + " " + value + ": must be at least " + least);
        }
    }

    /** The QLoRA paper's settings for small models: learning rate 2e-4, constant, clipping at 0.3, 16 rows a step. */
    public static TrainSettings defaults() {
        return new TrainSettings(0, 3, 8, 1, 512, 2e-4, Schedule.named("constant"), 0, 0.3,
                AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES), new Residency.Percent(100), false, 10, 500, 0, 0,
                42);
    }

    /** The same with a number of steps. */
    public TrainSettings withMaxSteps(int steps) {
        return with(steps, perDeviceBatch, accumulation, maxLength, learningRate, adam, resident, checkpointing);
    }

    /** The same with a learning rate. */
    public TrainSettings withLearningRate(double rate) {
        return with(maxSteps, perDeviceBatch, accumulation, maxLength, rate, adam, resident, checkpointing);
    }

    /** The same with a micro-batch size and a row length. */
    public TrainSettings withBatch(int rows, int length) {
        return with(maxSteps, rows, accumulation, length, learningRate, adam, resident, checkpointing);
    }

    /** The same with another share of the optimizer's state on the device. */
    public TrainSettings withResident(Residency share) {
        return with(maxSteps, perDeviceBatch, accumulation, maxLength, learningRate, adam, share, checkpointing);
    }

    /** The same with or without gradient checkpointing. */
    public TrainSettings withCheckpointing(boolean on) {
        return with(maxSteps, perDeviceBatch, accumulation, maxLength, learningRate, adam, resident, on);
    }

    /** The same with another number of micro-batches in a step. */
    public TrainSettings withAccumulation(int microBatches) {
        return with(maxSteps, perDeviceBatch, microBatches, maxLength, learningRate, adam, resident, checkpointing);
    }

    /** The same with other settings of AdamW. */
    public TrainSettings withAdam(AdamHyper other) {
        return with(maxSteps, perDeviceBatch, accumulation, maxLength, learningRate, other, resident, checkpointing);
    }

    /** The same with another end of the run. */
    public TrainSettings withSelection(Selection other) {
        return new TrainSettings(maxSteps, epochs, perDeviceBatch, accumulation, maxLength, learningRate, schedule,
                warmupRatio, maxGradNorm, adam, resident, checkpointing, loggingSteps, saveSteps, saveLimit, evalSteps,
                seed, loraPlusRatio, other, groupByLength, neftuneAlpha, offloadActivations);
    }

    /** The same with rows grouped by length or not, and with noise on embeddings (0: none). */
    public TrainSettings with(boolean grouped, double noise) {
        return new TrainSettings(maxSteps, epochs, perDeviceBatch, accumulation, maxLength, learningRate, schedule,
                warmupRatio, maxGradNorm, adam, resident, checkpointing, loggingSteps, saveSteps, saveLimit, evalSteps,
                seed, loraPlusRatio, selection, grouped, noise, offloadActivations);
    }

    /** The same with layer inputs on the device or in host memory. */
    public TrainSettings withOffloadActivations(boolean on) {
        return new TrainSettings(maxSteps, epochs, perDeviceBatch, accumulation, maxLength, learningRate, schedule,
                warmupRatio, maxGradNorm, adam, resident, checkpointing, loggingSteps, saveSteps, saveLimit, evalSteps,
                seed, loraPlusRatio, selection, groupByLength, neftuneAlpha, on);
    }

    private TrainSettings with(int steps, int rows, int microBatches, int length, double rate, AdamHyper hyper,
            Residency share, boolean again) {
        return new TrainSettings(steps, epochs, rows, microBatches, length, rate, schedule, warmupRatio, maxGradNorm,
                hyper, share, again, loggingSteps, saveSteps, saveLimit, evalSteps, seed, loraPlusRatio, selection,
                groupByLength, neftuneAlpha, offloadActivations);
    }

    /** The steps of a run over data that takes {@code stepsPerEpoch}. */
    public int totalSteps(int stepsPerEpoch) {
        return maxSteps > 0 ? maxSteps : Math.max(1, (int) Math.ceil(epochs * stepsPerEpoch));
    }

    /** The optimizer's settings of each group of an adapter's parameters. */
    public Map<String, AdamHyper> hyperOfGroup() {
        AdamHyper scaled = adam.withLearningRateScale(loraPlusRatio);
        return Map.of(ParameterStore.DEFAULT_GROUP, adam, Adapter.GROUP_B, scaled, Adapter.GROUP_NO_DECAY,
                scaled.withWeightDecay(0));
    }

    /** What must be equal for a checkpoint to be continued, by flag. */
    public Map<String, String> identity() {
        Map<String, String> m = new LinkedHashMap<>();
        m.put("--per-device-train-batch-size", "" + perDeviceBatch);
        m.put("--gradient-accumulation-steps", "" + accumulation);
        m.put("--max-seq-length", "" + maxLength);
        m.put("--learning-rate", "" + learningRate);
        m.put("--lr-scheduler-type", schedule.flag());
        m.put("--warmup-ratio", "" + warmupRatio);
        m.put("--max-grad-norm", "" + maxGradNorm);
        m.put("--optim, --adam-*, --weight-decay", "" + adam);
        m.put("--loraplus-lr-ratio", "" + loraPlusRatio);
        m.put("--seed", "" + seed);
        m.put("--group-by-length", "" + groupByLength);
        m.put("--neftune-noise-alpha", "" + neftuneAlpha);
        return m;
    }
}
