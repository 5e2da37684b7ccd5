package qlora4j.train;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.UnaryOperator;
import qlora4j.model.DecoderLoader;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Residency;
import qlora4j.tensor.DType;
import qlora4j.tensor.Footprint;
import qlora4j.train.MemoryPlan.Job;

/**
 * What to change so that a job fits a budget of memory. Changes that leave every number as it is (but for the order of
 * sums) come first: checkpointing, smaller micro-batches, a paged optimizer. Each is tried on the memory plan itself;
 * those that turn out not to be needed are left out.
 *
 * @param changes in the order in which they were tried
 * @param total bytes with all of them
 * @param fits whether that is within the budget
 */
public record BudgetAdvice(List<Change> changes, long total, boolean fits) {
    /** Rows shorter than this, and ranks smaller than the other, are not proposed. */
    private static final int SHORTEST = 128;
    private static final int SMALLEST_RANK = 8;

    /**
     * A flag to give.
     *
     * @param flags as they stand on a command line
     * @param price what it costs
     * @param total bytes with it and all before it
     */
    public record Change(String flags, String price, long total) {
    }

    private record Candidate(String flags, String price, UnaryOperator<Job> apply) {
    }

    public BudgetAdvice {
        changes = List.copyOf(changes);
    }

    /** Looks for changes that bring {@code job} within {@code budget} bytes on {@code device}. */
    public static BudgetAdvice of(Footprint device, Job job, long budget) throws IOException {
        List<Candidate> taken = new ArrayList<>();
        Job now = job;
        long total = MemoryPlan.predict(device, job).total();
        for (List<Candidate> alternatives : candidates(device, job)) {
            Candidate best = null;
            for (Candidate c : alternatives) {
                if (total <= budget) {
                    break;
                }
                long with = MemoryPlan.predict(device, c.apply.apply(now)).total();
                if (with < total) {
                    best = c;
                    total = with;
                }
            }
            if (best != null) {
                taken.add(best);
                now = best.apply.apply(now);
            }
        }
        return result(device, job, budget, total <= budget ? needed(device, job, budget, taken) : taken);
    }

    private static List<Candidate> needed(Footprint device, Job job, long budget, List<Candidate> taken)
            throws IOException {
        List<Candidate> kept = new ArrayList<>(taken);
        for (Candidate c : taken) {
            List<Candidate> without = new ArrayList<>(kept);
            without.remove(c);
            if (MemoryPlan.predict(device, all(job, without)).total() <= budget) {
                kept = without;
            }
        }
        return kept;
    }

    private static Job all(Job job, List<Candidate> candidates) {
        Job changed = job;
        for (Candidate c : candidates) {
            changed = c.apply.apply(changed);
        }
        return changed;
    }

    private static BudgetAdvice result(Footprint device, Job job, long budget, List<Candidate> taken)
            throws IOException {
        List<Change> changes = new ArrayList<>();
        Job now = job;
        for (Candidate c : taken) {
            now = c.apply.apply(now);
            changes.add(new Change(c.flags, c.price, MemoryPlan.predict(device, now).total()));
        }
        long total = changes.isEmpty() ? MemoryPlan.predict(device, job).total() : changes.getLast().total;
        return new BudgetAdvice(changes, total, total <= budget);
    }

    /** What can be changed, each with alternatives from the mildest on. */
    private static List<List<Candidate>> candidates(Footprint device, Job job) {
        TrainSettings s = job.settings();
        List<List<Candidate>> all = new ArrayList<>();
        if (!s.checkpointing()) {
            all.add(List.of(new Candidate("--gradient-checkpointing",
                    "each layer's forward is computed twice; the same numbers",
                    j -> j.with(j.settings().withCheckpointing(true), j.largest()))));
        }
        all.add(smallerBatches(job));
        if (!s.offloadActivations() && !device.isOnHost()) {
            all.add(List.of(new Candidate("--gradient-checkpointing --offload-activations",
                    "the inputs of layers wait in host memory; the same numbers",
                    j -> j.with(j.settings().withCheckpointing(true).withOffloadActivations(true), j.largest()))));
        }
        if (s.resident().budget(Long.MAX_VALUE) > 0) {
            all.add(List
                    .of(new Candidate("--optim-resident 0%", "optimizer states pass through memory; the same numbers",
                            j -> j.with(j.settings().withResident(new Residency.Percent(0)), j.largest()))));
        }
        if (job.loader().type() == DType.F32) {
            all.add(List.of(new Candidate("--bf16", "computes in bfloat16",
                    j -> j.with(new DecoderLoader(j.loader().quantize(), DType.BF16,
                            j.loader().tableRows())))));
        }
        if (!s.adam().eightBit()) {
            all.add(List.of(new Candidate("--optim paged_adamw_8bit", "moments in 8 bits",
                    j -> j.with(j.settings().withAdam(eightBit(j.settings().adam())), j.largest()))));
        }
        all.add(shorterRows(job));
        all.add(smallerRanks(job));
        return all;
    }

    private static List<Candidate> smallerBatches(Job job) {
        List<Candidate> all = new ArrayList<>();
        int rows = job.settings().perDeviceBatch();
        int global = rows * job.settings().accumulation();
        for (int b = rows / 2; b >= 1; b /= 2) {
            if (global % b == 0) {
                int batch = b;
                all.add(new Candidate("--per-device-train-batch-size " + b + " --gradient-accumulation-steps "
                        + global / b, "the same rows in a step, fewer at once",
                        j -> j.with(j.settings().withBatch(batch, j.settings().maxLength())
                                .withAccumulation(global / batch), cut(j.largest(), batch, Integer.MAX_VALUE))));
            }
        }
        return all;
    }

    private static List<Candidate> shorterRows(Job job) {
        List<Candidate> all = new ArrayList<>();
        for (int n = job.largest().maxLength() / 2; n >= SHORTEST; n /= 2) {
            int length = n;
            all.add(new Candidate("--max-seq-length " + n, "longer rows lose the beginning of their prompt",
                    j -> j.with(j.settings().withBatch(j.settings().perDeviceBatch(), length),
                            cut(j.largest(), Integer.MAX_VALUE, length))));
        }
        return all;
    }

    private static List<Candidate> smallerRanks(Job job) {
        List<Candidate> all = new ArrayList<>();
        for (int r = job.lora().rank() / 2; r >= SMALLEST_RANK; r /= 2) {
            int rank = r;
            all.add(new Candidate("--lora-r " + r, "a smaller adapter", j -> j.with(j.lora().withRank(rank))));
        }
        return all;
    }

    /** bitsandbytes' formula is the only one with moments in 8 bits. */
    private static AdamHyper eightBit(AdamHyper a) {
        return new AdamHyper(AdamHyper.Formula.BITSANDBYTES, a.beta1(), a.beta2(), a.epsilon(), a.weightDecay(),
                a.learningRateScale(), true);
    }

    /** The first sequences of a batch, cut to a length. */
    private static TokenBatch cut(TokenBatch batch, int sequences, int length) {
        int[][] rows = new int[Math.min(sequences, batch.sequences())][];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = new int[Math.min(length, batch.cuLengths()[i + 1] - batch.cuLengths()[i])];
        }
        TokenBatch b = TokenBatch.of(rows);
        return b.withLabels(new int[b.rows()]);
    }
}
