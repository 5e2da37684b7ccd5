package qlora4j.train.data;

import java.util.List;
import java.util.Locale;

/**
 * What became of the rows of a data set: {@code rows = kept + dropped()}.
 *
 * @param maxLength   the limit on a row's tokens
 * @param rows        how many there were
 * @param kept        how many are trained on
 * @param shortened   how many of those lost the beginning of their prompt
 * @param tooLong     where the rows stand whose completion and EOS alone fill {@code maxLength}; dropped
 * @param unlabelled  where the rows stand whose completion has no tokens; dropped
 * @param tokens      of the kept rows
 * @param labelTokens of these, how many are predicted: completions and EOS
 */
public record DataReport(int maxLength, int rows, int kept, int shortened, List<String> tooLong,
        List<String> unlabelled,
        long tokens, long labelTokens) {
    public DataReport {
        tooLong = List.copyOf(tooLong);
        unlabelled = List.copyOf(unlabelled);
        if (rows != kept + tooLong.size() + unlabelled.size() || shortened > kept || labelTokens > tokens) {
            throw new IllegalArgumentException("the numbers do not add up: " + rows + " rows, " + kept + " kept, "
                    + tooLong.size() + " and " + unlabelled.size() + " dropped, " + shortened + " shortened; " + tokens
                    + " tokens, " + labelTokens + " labels");
        }
    }

    public int dropped() {
        return tooLong.size() + unlabelled.size();
    }

    /** One line for a person. */
    public String summary() {
        StringBuilder line = new StringBuilder();
        line.append(String.format(Locale.ROOT, "%,d rows: %,d kept", rows, kept));
        if (shortened > 0) {
            line.append(String.format(Locale.ROOT, " (%,d without the beginning of their prompt)", shortened));
        }
        if (!tooLong.isEmpty()) {
            line.append(String.format(Locale.ROOT, ", %,d dropped because the completion alone fills %,d tokens",
                    tooLong.size(), maxLength));
        }
        if (!unlabelled.isEmpty()) {
            line.append(String.format(Locale.ROOT, ", %,d dropped because the completion has no tokens",
                    unlabelled.size()));
        }
        return line.append(String.format(Locale.ROOT, "; %,d tokens, %,d of them trained", tokens, labelTokens))
                .toString();
    }
}
