package qlora4j.train.data;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Deque;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;

/**
 * Rows put together to sequences of at most {@code capacity} tokens, so that each holds about as many and fewer steps
 * read all rows. A sequence is only a way to choose what a batch reads: in it each row keeps its positions from 0, its
 * number as a sample, and an attention of its own, so that the loss of some rows is the same packed and unpacked.
 *
 * @param capacity  the most tokens of a sequence
 * @param sequences the indices of the rows of each; every row stands in one
 * @param tokens    of all rows
 */
public record Packing(int capacity, List<List<Integer>> sequences, long tokens) {
    /** The only strategy: best-fit decreasing, TRL's name for it. */
    public static final String BEST_FIT_DECREASING = "bfd";

    public Packing {
        sequences = sequences.stream().map(List::copyOf).toList();
    }

    /**
     * Packs by best fit, longest first: each row goes to the sequence that it leaves the least room in, and begins a new
     * one where none has room (TRL's {@code packing_strategy="bfd"}; Ding et al. 2024, "Fewer Truncations Improve
     * Language Modeling", section 3). Rows of equal length are taken in their order, so that the result is a function of
     * the lengths.
     *
     * @param capacity at least the longest row's length
     */
    public static Packing bestFitDecreasing(List<TokenizedRow> rows, int capacity) {
        List<List<Integer>> sequences = new ArrayList<>();
        TreeMap<Integer, Deque<List<Integer>>> byRoom = new TreeMap<>();
        int[] order = IntStream.range(0, rows.size()).boxed()
                .sorted(Comparator.comparingInt((Integer row) -> -rows.get(row).length())).mapToInt(row -> row)
                .toArray();
        long tokens = 0;
        for (int row : order) {
            int length = rows.get(row).length();
            if (length > capacity) {
                throw new IllegalArgumentException("a row of " + length + " tokens does not fit a sequence of "
                        + capacity);
            }
            Map.Entry<Integer, Deque<List<Integer>>> best = byRoom.ceilingEntry(length);
            int room = capacity;
            List<Integer> sequence;
            if (best == null) {
                sequence = new ArrayList<>();
                sequences.add(sequence);
            } else {
                room = best.getKey();
                sequence = best.getValue().poll();
                if (best.getValue().isEmpty()) {
                    byRoom.remove(room);
                }
            }
            sequence.add(row);
            byRoom.computeIfAbsent(room - length, _ -> new ArrayDeque<>()).add(sequence);
            tokens += length;
        }
        return new Packing(capacity, sequences, tokens);
    }

    /** The share of the sequences' room that tokens fill. */
    public double fill() {
        return tokens / ((double) capacity * sequences.size());
    }

    /** One line for a person. */
    public String summary() {
        int rows = sequences.stream().mapToInt(List::size).sum();
        return String.format(Locale.ROOT,
                "%,d rows in %,d sequences of at most %,d tokens, %.1f %% full (%.1f rows each)",
                rows, sequences.size(), capacity, 100 * fill(), (double) rows / sequences.size());
    }
}
