package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import qlora4j.tensor.Philox;

/**
 * The order of training: each epoch goes through all rows once, in an order of its own, in global batches of
 * {@code perDevice * accumulation} rows; the last of an epoch may have fewer. What a step reads is a function of the
 * rows, the size of the global batch, the seed and the step's number alone, so that a run goes on at any step, and the
 * split into micro-batches changes nothing. Not thread-safe.
 */
public final class Batches {
    /** Tells these random numbers from others of the same seed: "rows" in ASCII. */
    private static final int PURPOSE = 0x726f7773;

    private final List<TokenizedRow> rows;
    private final int perDevice;
    private final int globalSize;
    private final long seed;
    private int orderedEpoch = -1;
    private int[] order = {};

    /**
     * Batches of some rows.
     *
     * @param perDevice    rows of a micro-batch, from 1
     * @param accumulation micro-batches of a step, from 1
     */
    public Batches(List<TokenizedRow> rows, int perDevice, int accumulation, long seed) {
        if (rows.isEmpty()) {
            throw new IllegalArgumentException("there are no rows to train on");
        }
        requirePositive("--per-device-train-batch-size", perDevice);
        requirePositive("--gradient-accumulation-steps", accumulation);
        this.rows = List.copyOf(rows);
        this.perDevice = perDevice;
        this.globalSize = Math.multiplyExact(perDevice, accumulation);
        this.seed = seed;
    }

    private static void requirePositive(String flag, int value) {
        if (value < 1) {
            throw new IllegalArgumentException(flag + " must be 1 or more, not " + value);
        }
    }

    public int stepsPerEpoch() {
        return Math.ceilDiv(rows.size(), globalSize);
    }

    /** How many passes over the data {@code steps} steps are; a whole number at the end of an epoch. */
    public double epochsAfter(int steps) {
        int within = Math.min(steps % stepsPerEpoch() * globalSize, rows.size());
        return steps / stepsPerEpoch() + (double) within / rows.size();
    }

    /** What a step reads; steps count from 0, so that this is also the number of steps done before it. */
    public GlobalBatch at(int step) {
        if (step < 0) {
            throw new IllegalArgumentException("steps count from 0, there is no step " + step);
        }
        int epoch = step / stepsPerEpoch();
        if (epoch != orderedEpoch) {
            order = new Philox.Sequence(seed, PURPOSE, epoch).permutation(rows.size());
            orderedEpoch = epoch;
        }
        int first = step % stepsPerEpoch() * globalSize;
        int[] chosen = Arrays.copyOfRange(order, first, Math.min(first + globalSize, rows.size()));
        List<TokenizedRow> samples = Arrays.stream(chosen).mapToObj(rows::get).toList();
        return new GlobalBatch(step, epoch, Arrays.stream(chosen).boxed().toList(), inOrder(samples, perDevice));
    }

    /**
     * Rows in their own order, as evaluation reads them.
     *
     * @param size rows of a batch, from 1; the last may have fewer
     */
    public static List<Batch> inOrder(List<TokenizedRow> rows, int size) {
        requirePositive("the rows of a batch", size);
        List<Batch> batches = new ArrayList<>();
        for (int first = 0; first < rows.size(); first += size) {
            batches.add(Batch.of(rows.subList(first, Math.min(first + size, rows.size())), first));
        }
        return batches;
    }
}
