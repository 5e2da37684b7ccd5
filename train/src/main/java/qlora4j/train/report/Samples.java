package qlora4j.train.report;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import qlora4j.model.CausalLm;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.Tokenizer;
import qlora4j.train.data.TokenizedRow;

/** Texts before and after: the first rows' prompts, continued by the base and by an adapter, greedily. */
public final class Samples {
    private Samples() {
    }

    /**
     * Up to {@code count} samples; a prompt that leaves no room for {@code newTokens} is passed over.
     *
     * @param adapter the adapter's name in {@code lm}
     */
    public static List<RunRecord.Sample> of(CausalLm lm, String adapter, List<TokenizedRow> rows, int count,
            int newTokens) throws IOException {
        List<RunRecord.Sample> samples = new ArrayList<>();
        GenerateOptions options = GenerateOptions.greedy(newTokens);
        Tokenizer tokenizer = lm.tokenizer(adapter);
        for (TokenizedRow row : rows) {
            if (samples.size() == count) {
                break;
            }
            int from = firstLabel(row);
            int to = from;
            while (to < row.length() && row.label(to - 1) != TokenizedRow.IGNORED) {
                to++;
            }
            if (from == 0 || from + newTokens > lm.decoder().config().maxPositions()) {
                continue;
            }
            int[] prompt = Arrays.copyOf(row.ids(), from);
            samples.add(new RunRecord.Sample(tokenizer.decode(prompt, false),
                    tokenizer.decode(Arrays.copyOfRange(row.ids(), from, to), true),
                    Arrays.stream(prompt).allMatch(id -> id < lm.decoder().config().vocab())
                            ? continued(lm, CausalLm.BASE, prompt, options)
                            : "(the prompt has tokens that the base model lacks)",
                    continued(lm, adapter, prompt, options)));
        }
        return samples;
    }

    /** The first token that is learned. */
    private static int firstLabel(TokenizedRow row) {
        int i = 0;
        while (row.label(i) == TokenizedRow.IGNORED) {
            i++;
        }
        return i + 1;
    }

    private static String continued(CausalLm lm, String adapter, int[] prompt, GenerateOptions options)
            throws IOException {
        StringBuilder text = new StringBuilder();
        lm.generate(adapter, prompt, options, text::append);
        return text.toString();
    }
}
