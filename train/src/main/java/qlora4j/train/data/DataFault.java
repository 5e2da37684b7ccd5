package qlora4j.train.data;

import java.util.ArrayList;
import java.util.List;

/**
 * A mistake that makes a training run teach the wrong thing, and the rows that have it.
 *
 * @param kind what it is
 * @param rows where they stand
 */
public record DataFault(Kind kind, List<String> rows) {
    /** What can be wrong. */
    public enum Kind {
        /** Nothing of the row is learned. */
        ZERO_LABELS("zero labels", "nothing in them is learned, so they are dropped"),
        /** The row would be cut before or in its answer. */
        CUT_BEFORE_ANSWER("cut before the answer", "the answer alone fills --max-seq-length, so they are dropped"),
        /** Two BOS at the beginning, which the model never saw so. */
        DOUBLE_BOS("double BOS", "the template or the data write a BOS that is there already"),
        /** The model does not learn to stop. */
        UNTRAINED_EOS("untrained EOS", "no EOS in them is learned, so the model does not learn to stop");

        private final String title;
        private final String meaning;

        Kind(String title, String meaning) {
            this.title = title;
            this.meaning = meaning;
        }

        public String title() {
            return title;
        }

        public String meaning() {
            return meaning;
        }
    }

    public DataFault {
        rows = List.copyOf(rows);
    }

    /** The faults of data, dropped rows included; none where all is well. */
    public static List<DataFault> of(TokenizedData data, Encoder encoder) {
        List<String> doubled = new ArrayList<>();
        List<String> unended = new ArrayList<>();
        for (int r = 0; r < data.rows().size(); r++) {
            String where = data.sources().get(r).where();
            if (encoder.doublesBos(data.rows().get(r))) {
                doubled.add(where);
            }
            if (!encoder.learnsEos(data.rows().get(r))) {
                unended.add(where);
            }
        }
        return List.of(new DataFault(Kind.ZERO_LABELS, data.report().unlabelled()),
                new DataFault(Kind.CUT_BEFORE_ANSWER, data.report().tooLong()),
                new DataFault(Kind.DOUBLE_BOS, doubled), new DataFault(Kind.UNTRAINED_EOS, unended)).stream()
                .filter(fault -> !fault.rows.isEmpty()).toList();
    }
}
