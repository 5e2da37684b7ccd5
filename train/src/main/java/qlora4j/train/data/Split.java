package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import qlora4j.tensor.Philox;

/** Rows to train on and rows to evaluate on, each in the data's order. */
public record Split(List<Row> train, List<Row> eval) {
    /** Tells these random numbers from others of the same seed: "eval" in ASCII. */
    private static final int PURPOSE = 0x6576616c;

    public Split {
        train = List.copyOf(train);
        eval = List.copyOf(eval);
    }

    /**
     * Sets aside a share of rows, drawn by seed, rounded to a whole number.
     *
     * @param share between 0 and 1; at least one row must fall on either side
     * @throws DataException where one side would be empty
     */
    public static Split of(List<Row> rows, double share, long seed) {
        if (!(share > 0 && share < 1)) {
            throw new IllegalArgumentException(
                    "the share of rows to evaluate on must lie between 0 and 1, not " + share);
        }
        int count = Math.toIntExact(Math.round(rows.size() * share));
        if (count == 0 || count == rows.size()) {
            throw new DataException("a share of " + share + " of " + rows.size() + " rows leaves " + count
                    + " to evaluate on and " + (rows.size() - count) + " to train on; each needs one or more");
        }
        boolean[] chosen = new boolean[rows.size()];
        int[] drawn = new Philox.Sequence(seed, PURPOSE, 0).permutation(rows.size());
        Arrays.stream(drawn, 0, count).forEach(i -> chosen[i] = true);
        List<Row> train = new ArrayList<>();
        List<Row> eval = new ArrayList<>();
        for (int i = 0; i < rows.size(); i++) {
            (chosen[i] ? eval : train).add(rows.get(i));
        }
        return new Split(train, eval);
    }
}
