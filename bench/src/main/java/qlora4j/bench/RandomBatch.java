package qlora4j.bench;

import java.util.ArrayList;
import java.util.List;
import qlora4j.model.TokenBatch;
import qlora4j.tensor.Philox;
import qlora4j.train.Trainer;
import qlora4j.train.data.Batches;
import qlora4j.train.data.GlobalBatch;
import qlora4j.train.data.TokenizedRow;

/** Random tokens to train on: rows of one length, every token but the first of a row predicted. */
public final class RandomBatch {
    private static final int PURPOSE = 0x746f6b73;

    private RandomBatch() {
    }

    /** {@code n} random tokens below {@code vocab}. */
    public static int[] tokens(int vocab, int n, int item) {
        Philox.Sequence draws = new Philox.Sequence(BenchSettings.SEED, PURPOSE, item);
        int[] tokens = new int[n];
        for (int i = 0; i < n; i++) {
            tokens[i] = draws.nextInt(vocab);
        }
        return tokens;
    }

    /** One micro-batch as an optimizer step reads it. */
    public static GlobalBatch of(int vocab, int rows, int length) {
        List<TokenizedRow> all = new ArrayList<>();
        for (int i = 0; i < rows; i++) {
            all.add(new TokenizedRow(tokens(vocab, length, i), 0, 0));
        }
        return new Batches(all, rows, 1, BenchSettings.SEED).at(0);
    }

    /** Its only micro-batch as the decoder takes it. */
    public static TokenBatch largest(GlobalBatch batch) {
        return Trainer.tokens(batch.microBatches().getFirst());
    }
}
