package qlora4j.train;

import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import qlora4j.model.CausalLm;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;
import qlora4j.model.StreamingDecoder;
import qlora4j.model.Tokenizer;
import qlora4j.train.data.TokenizedRow;

/**
 * How many rows' completions greedy decoding writes exactly: the text up to the end token, without white space around
 * it, equals the row's. Of a row with several trained parts the last counts. Writing stops where the text can no longer
 * become the expected one.
 *
 * @param matched rows whose text was the expected one
 * @param rows that were tried
 * @param skipped rows that are longer than what the model was made for
 */
public record ExactMatch(int matched, int rows, int skipped) {
    /** Room for a completion that is written in more tokens than the expected one. */
    private static final int SLACK = 8;

    /** Writes the completion of each row under {@code adapter} or {@link CausalLm#BASE}. */
    public static ExactMatch of(CausalLm lm, String adapter, List<TokenizedRow> rows) throws IOException {
        int positions = lm.decoder().config().maxPositions();
        int longest = rows.stream().mapToInt(r -> r.length() + SLACK).filter(n -> n <= positions).max().orElse(0);
        if (longest == 0) {
            return new ExactMatch(0, 0, rows.size());
        }
        int matched = 0;
        int skipped = 0;
        try (Generator generator = new Generator(lm.decoder(), longest)) {
            for (TokenizedRow row : rows) {
                if (row.length() + SLACK > longest) {
                    skipped++;
                } else if (matches(lm, adapter, generator, row)) {
                    matched++;
                }
            }
        }
        return new ExactMatch(matched, rows.size() - skipped, skipped);
    }

    private static boolean matches(CausalLm lm, String adapter, Generator generator, TokenizedRow row)
            throws IOException {
        int prompt = promptLength(row);
        Tokenizer tokenizer = lm.tokenizer(adapter);
        Set<Integer> eos = lm.eosIds();
        String expected = tokenizer.decode(Arrays.copyOfRange(row.ids(), prompt, row.length()), true).strip();
        StreamingDecoder text = tokenizer.streamingDecoder(true);
        StringBuilder written = new StringBuilder();
        boolean[] ended = {false};
        generator.generate(Arrays.copyOf(row.ids(), prompt), row.length() - prompt + SLACK, SamplingConfig.GREEDY,
                lm.use(adapter), eos, token -> {
                    if (eos.contains(token)) {
                        ended[0] = true;
                        return false;
                    }
                    written.append(text.accept(token));
                    return expected.startsWith(written.toString().strip());
                });
        written.append(text.finish());
        return ended[0] && written.toString().strip().equals(expected);
    }

    /** Where the last trained part of a row begins; at least 1. */
    private static int promptLength(TokenizedRow row) {
        int start = row.length() - 1;
        while (start > 1 && row.label(start - 2) != TokenizedRow.IGNORED) {
            start--;
        }
        return start;
    }
}
