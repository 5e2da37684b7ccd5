package qlora4j.train.data;

import java.util.List;

/**
 * Rows ready for training.
 *
 * @param rows    the rows that were kept, in the data's order
 * @param sources the row of the file that each came from; as many
 * @param report  what became of the data
 */
public record TokenizedData(List<TokenizedRow> rows, List<Row> sources, DataReport report) {
    public TokenizedData {
        rows = List.copyOf(rows);
        sources = List.copyOf(sources);
        if (rows.size() != sources.size() || rows.size() != report.kept()) {
            throw new IllegalArgumentException(rows.size() + " rows of " + sources.size() + " sources, reported as "
                    + report.kept());
        }
    }
}
