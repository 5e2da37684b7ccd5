package qlora4j.train.data;

import java.util.List;
import java.util.stream.IntStream;

/**
 * Rows ready for training.
 *
 * @param rows    the rows that were kept, in the data's order
 * @param sources the row of the file that each came from; as many
 * @param report  what became of the data
 * @param packing which rows are read as one sequence, or null where each is one of its own
 */
public record TokenizedData(List<TokenizedRow> rows, List<Row> sources, DataReport report, Packing packing) {
    public TokenizedData {
        rows = List.copyOf(rows);
        sources = List.copyOf(sources);
        if (rows.size() != sources.size() || rows.size() != report.kept()) {
            throw new IllegalArgumentException(rows.size() + " rows of " + sources.size() + " sources, reported as "
                    + report.kept());
        }
    }

    /** Rows that are not packed. */
    public TokenizedData(List<TokenizedRow> rows, List<Row> sources, DataReport report) {
        this(rows, sources, report, null);
    }

    /** The same rows packed to sequences of as many tokens as a row may have. */
    public TokenizedData packed() {
        return new TokenizedData(rows, sources, report, Packing.bestFitDecreasing(rows, report.maxLength()));
    }

    /** The indices of the rows of each sequence: what {@code --per-device-train-batch-size} counts. */
    public List<List<Integer>> sequences() {
        return packing == null ? IntStream.range(0, rows.size()).mapToObj(List::of).toList() : packing.sequences();
    }
}
