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
 * @param unlabelled  where the rows stand that have nothing to learn: no answer, or one without tokens; dropped
 * @param tokens      of the kept rows
 * @param labelTokens of these, how many are predicted: completions and EOS
 * @param losses      what else the kept rows lost
 */
public record DataReport(int maxLength, int rows, int kept, int shortened, List<String> tooLong,
        List<String> unlabelled, long tokens, long labelTokens, Losses losses) {
    /**
     * What kept rows lost beside the beginning of a prompt.
     *
     * @param ends     rows that are learned whole and lost their end, and with it EOS
     * @param cut      the tokens of these ends
     * @param answers  rows of which an earlier answer was cut with the beginning of the conversation
     * @param messages messages behind a last answer, from which nothing would be learned
     * @param unended  rows with no learned EOS, from which a model does not learn to stop
     * @param spaced   conversations whose prompt the chat template writes with other white space when an answer follows
     */
    public record Losses(int ends, long cut, int answers, int messages, int unended, int spaced) {
        static final Losses NONE = new Losses(0, 0, 0, 0, 0, 0);
    }

    public DataReport {
        tooLong = List.copyOf(tooLong);
        unlabelled = List.copyOf(unlabelled);
        if (rows != kept + tooLong.size() + unlabelled.size() || shortened > kept || labelTokens > tokens) {
            throw new IllegalArgumentException("the numbers do not add up: " + rows + " rows, " + kept + " kept, "
                    + tooLong.size() + " and " + unlabelled.size() + " dropped, " + shortened + " shortened; " + tokens
                    + " tokens, " + labelTokens + " labels");
        }
    }

    /** A report of rows that lost nothing else. */
    public DataReport(int maxLength, int rows, int kept, int shortened, List<String> tooLong,
            List<String> unlabelled, long tokens, long labelTokens) {
        this(maxLength, rows, kept, shortened, tooLong, unlabelled, tokens, labelTokens, Losses.NONE);
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
        line.append(String.format(Locale.ROOT, "; %,d tokens, %,d of them trained", tokens, labelTokens));
        if (losses.ends > 0) {
            line.append(String.format(Locale.ROOT, "; %,d rows lost their end beyond %,d tokens (%,d tokens)",
                    losses.ends, maxLength, losses.cut));
        }
        if (losses.answers > 0) {
            line.append(String.format(Locale.ROOT, "; %,d conversations lost an earlier answer", losses.answers));
        }
        if (losses.messages > 0) {
            line.append(String.format(Locale.ROOT, "; %,d messages behind a last answer left out", losses.messages));
        }
        if (losses.unended > 0) {
            line.append(String.format(Locale.ROOT, "; in %,d rows no EOS is learned", losses.unended));
        }
        if (losses.spaced > 0) {
            line.append(
                    String.format(Locale.ROOT, "; in %,d conversations the chat template writes the white space of a"
                            + " prompt otherwise when its answer follows", losses.spaced));
        }
        return line.toString();
    }
}
