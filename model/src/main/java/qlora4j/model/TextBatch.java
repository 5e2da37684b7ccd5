package qlora4j.model;

import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import qlora4j.model.BatchGenerator.Request;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.CausalLm.RowText;

/** Several prompts and what is written behind them, in one batch where their adapters can share one. */
final class TextBatch {
    private final CausalLm lm;
    private final List<String> adapters;
    private final List<int[]> prompts;
    private final GenerateOptions options;
    private final RowText onText;
    private final int[] made;

    /** See {@link CausalLm#generate(List, List, GenerateOptions, RowText)}. */
    TextBatch(CausalLm lm, List<String> adapters, List<int[]> prompts, GenerateOptions options, RowText onText) {
        check(adapters, prompts);
        this.lm = lm;
        this.adapters = adapters;
        this.prompts = prompts;
        this.options = options;
        this.onText = onText;
        made = new int[prompts.size()];
    }

    /** Refuses rows that are none, or that lack a prompt or an adapter. */
    static void check(List<String> adapters, List<?> prompts) {
        if (prompts.isEmpty()) {
            throw new IllegalArgumentException("a batch of no prompts");
        }
        if (adapters.size() != prompts.size()) {
            throw new IllegalArgumentException("adapters for " + adapters.size() + " rows and prompts for "
                    + prompts.size() + ": each row needs one of both; " + CausalLm.BASE + " stands for no adapter");
        }
    }

    /** Writes all rows; the number of new tokens of each. */
    int[] write() throws IOException {
        Map<String, List<Integer>> batches = new LinkedHashMap<>();
        for (int i = 0; i < prompts.size(); i++) {
            String adapter = adapters.get(i);
            lm.use(adapter);
            checkLength(i);
            batches.computeIfAbsent(lm.decoder().takesRows() ? CausalLm.BASE : adapter, _ -> new ArrayList<>()).add(i);
        }
        for (List<Integer> rows : batches.values()) {
            write(rows);
        }
        return made;
    }

    private void checkLength(int row) {
        int length = prompts.get(row).length;
        int positions = lm.decoder().config().maxPositions();
        if (length == 0) {
            throw new IllegalArgumentException("row " + row + ": the prompt has no tokens");
        }
        if (length + options.maxNewTokens() > positions) {
            throw new IllegalArgumentException("row " + row + ": " + length + " prompt tokens and "
                    + options.maxNewTokens() + " new ones; the model was made for at most " + positions);
        }
    }

    /** Writes some rows in one batch. */
    private void write(List<Integer> rows) throws IOException {
        Set<Integer> eos = lm.eosIds();
        List<Request> requests = new ArrayList<>();
        List<GeneratedText> texts = new ArrayList<>();
        int longest = 0;
        for (int row : rows) {
            longest = Math.max(longest, prompts.get(row).length);
            requests.add(new Request(prompts.get(row), options.sampling(), lm.use(adapters.get(row))));
            texts.add(new GeneratedText(lm.tokenizer(adapters.get(row)), options.stopStrings(), eos, piece -> {
                onText.text(row, piece);
                return true;
            }));
        }
        int most = options.maxNewTokens();
        try (BatchGenerator generator = new BatchGenerator(lm.decoder(), rows.size(), longest + most)) {
            generator.generate(requests, most, eos, (i, token) -> {
                int row = rows.get(i);
                made[row]++;
                boolean goOn = texts.get(i).accept(token) && made[row] < most;
                if (!goOn) {
                    texts.get(i).finish();
                    onText.ended(row);
                }
                return goOn;
            });
        }
    }
}
