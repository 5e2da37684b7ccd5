package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
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

    private static final int MOST_BATCHES_OF_RUN = 50;

    private final List<TokenizedRow> rows;
    private final List<List<Integer>> sequences;
    private final int perDevice;
    private final int globalSize;
    private final long seed;
    private final boolean byLength;
    private int orderedEpoch = -1;
    private int[] order = {};

    /** Batches of some rows, each a sequence. */
    public Batches(List<TokenizedRow> rows, int perDevice, int accumulation, long seed) {
        this(rows, IntStream.range(0, rows.size()).mapToObj(List::of).toList(), perDevice, accumulation, seed, false);
    }

    /** Batches of data, packed or not, in an order drawn by seed alone. */
    public Batches(TokenizedData data, int perDevice, int accumulation, long seed) {
        this(data, perDevice, accumulation, seed, false);
    }

    /**
     * Batches of data, packed or not.
     *
     * @param byLength whether sequences of about the same length are read in the same step: as transformers'
     *                 LengthGroupedSampler, the order of an epoch is cut into runs of up to 50 global batches (a quarter
     *                 of the data in a small set), each run is sorted, the longest first, and the longest of all leads
     */
    public Batches(TokenizedData data, int perDevice, int accumulation, long seed, boolean byLength) {
        this(data.rows(), data.sequences(), perDevice, accumulation, seed, byLength);
    }

    /**
     * Batches of sequences.
     *
     * @param sequences    the indices of the rows of each
     * @param perDevice    sequences of a micro-batch, from 1
     * @param accumulation micro-batches of a step, from 1
     */
    private Batches(List<TokenizedRow> rows, List<List<Integer>> sequences, int perDevice, int accumulation,
            long seed, boolean byLength) {
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
        this.byLength = byLength;
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
            if (byLength) {
                order = grouped(order);
            }
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

    private int[] grouped(int[] drawn) {
        int batchesOfRun = Math.clamp(drawn.length / (4L * globalSize), 1, MOST_BATCHES_OF_RUN);
        int run = batchesOfRun * globalSize;
        Comparator<Integer> longestFirst = Comparator.comparingInt((Integer s) -> -length(s));
        List<Integer> all = new ArrayList<>();
        int leader = 0;
        for (int from = 0; from < drawn.length; from += run) {
            List<Integer> sorted = new ArrayList<>(
                    IntStream.range(from, Math.min(from + run, drawn.length)).mapToObj(i -> drawn[i]).toList());
            sorted.sort(longestFirst);
            all.addAll(sorted);
            leader = length(sorted.getFirst()) > length(all.get(leader)) ? from : leader;
        }
        // The longest comes first, so that a step that does not fit fails at once.
        Collections.swap(all, 0, leader);
        return all.stream().mapToInt(s -> s).toArray();
    }

    private int length(int sequence) {
        return sequences.get(sequence).stream().mapToInt(row -> rows.get(row).length()).sum();
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
