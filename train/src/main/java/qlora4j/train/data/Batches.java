package qlora4j.train.data;

import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import qlora4j.tensor.Philox;

/**
 * The order of training: each epoch goes through all sequences once, in an order of its own, in global batches of
 * {@code perDevice * accumulation} sequences; the last of an epoch may have fewer. A sequence is a row, or several where
 * they are packed. What a step reads is a function of the sequences, the size of the global batch, the seed and the
 * step's number alone, so that a run goes on at any step, and the split into micro-batches changes nothing. Not
 * thread-safe.
 */
public final class Batches {
    /** Tells these random numbers from others of the same seed: "rows" in ASCII. */
    private static final int PURPOSE = 0x726f7773;

    private final List<TokenizedRow> rows;
    private final List<List<Integer>> sequences;
    private final int perDevice;
    private final int globalSize;
    private final long seed;
    private int orderedEpoch = -1;
    private int[] order = {};

    /** Batches of some rows, each a sequence. */
    public Batches(List<TokenizedRow> rows, int perDevice, int accumulation, long seed) {
        this(rows, IntStream.range(0, rows.size()).mapToObj(List::of).toList(), perDevice, accumulation, seed);
    }

    /** Batches of data, packed or not. */
    public Batches(TokenizedData data, int perDevice, int accumulation, long seed) {
        this(data.rows(), data.sequences(), perDevice, accumulation, seed);
    }

    /**
     * Batches of sequences.
     *
     * @param sequences    the indices of the rows of each
     * @param perDevice    sequences of a micro-batch, from 1
     * @param accumulation micro-batches of a step, from 1
     */
    private Batches(List<TokenizedRow> rows, List<List<Integer>> sequences, int perDevice, int accumulation,
            long seed) {
        if (rows.isEmpty()) {
            throw new IllegalArgumentException("there are no rows to train on");
        }
        requirePositive("--per-device-train-batch-size", perDevice);
        requirePositive("--gradient-accumulation-steps", accumulation);
        this.rows = List.copyOf(rows);
        this.sequences = sequences;
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
        return Math.ceilDiv(sequences.size(), globalSize);
    }

    /** How many passes over the data {@code steps} steps are; a whole number at the end of an epoch. */
    public double epochsAfter(int steps) {
        int within = Math.min(steps % stepsPerEpoch() * globalSize, sequences.size());
        return steps / stepsPerEpoch() + (double) within / sequences.size();
    }

    /** What a step reads; steps count from 0, so that this is also the number of steps done before it. */
    public GlobalBatch at(int step) {
        if (step < 0) {
            throw new IllegalArgumentException("steps count from 0, there is no step " + step);
        }
        int epoch = step / stepsPerEpoch();
        if (epoch != orderedEpoch) {
            order = new Philox.Sequence(seed, PURPOSE, epoch).permutation(sequences.size());
            orderedEpoch = epoch;
        }
        int first = step % stepsPerEpoch() * globalSize;
        int last = Math.min(first + globalSize, sequences.size());
        List<Integer> read = new ArrayList<>();
        List<Batch> microBatches = new ArrayList<>();
        for (int from = first; from < last; from += perDevice) {
            List<TokenizedRow> samples = new ArrayList<>();
            int before = read.size();
            for (int s = from; s < Math.min(from + perDevice, last); s++) {
                for (int row : sequences.get(order[s])) {
                    samples.add(rows.get(row));
                    read.add(row);
                }
            }
            microBatches.add(Batch.of(samples, before));
        }
        return new GlobalBatch(step, epoch, read, microBatches);
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
