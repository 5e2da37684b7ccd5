package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.Batch;
import qlora4j.train.data.Batches;
import qlora4j.train.data.TokenizedRow;

/** Windows against their definition: each scored token once, behind as much context as its window has. */
class PerplexityTest {
    @ParameterizedTest
    @CsvSource({"23,8,3,0", "23,8,8,0", "23,8,1,5", "8,8,4,0", "9,8,4,3", "2,8,8,0", "40,7,5,21", "3,2,1,0"})
    void everyLabelIsScoredOnce(int n, int length, int stride, int prompt) {
        int[] ids = IntStream.range(100, 100 + n).toArray();
        TokenizedRow row = new TokenizedRow(ids, prompt, 0);
        int[] times = new int[n];
        for (Batch b : Perplexity.windows(List.of(row, row), length, stride, 3)) {
            int labels = 0;
            for (int i = 0; i < b.tokens().length; i++) {
                int window = 0;
                while (b.cuLengths()[window + 1] <= i) {
                    window++;
                }
                int first = b.cuLengths()[window];
                assertThat(b.positions()[i]).isEqualTo(i - first);
                if (b.labels()[i] == TokenizedRow.IGNORED) {
                    continue;
                }
                labels++;
                int target = b.labels()[i] - 100;
                times[target]++;
                assertThat(b.tokens()[i]).as("the token before").isEqualTo(ids[target - 1]);
                int context = i - first + 1;
                assertThat(context).isGreaterThanOrEqualTo(Math.min(target, length - stride));
            }
            assertThat(b.labelTokens()).isEqualTo(labels).isPositive();
        }
        for (int i = 0; i < n; i++) {
            // With disjoint windows nothing stands before a window's first token.
            boolean first = i == 0 || stride == length && i % length == 0;
            assertThat(times[i]).as("token %d", i).isEqualTo(!first && i >= prompt ? 2 : 0);
        }
    }

    /** Rows that fit their window are scored as a training's evaluation scores them; an own sum over single windows. */
    @Test
    void theMeanIsOverTokens(@TempDir Path directory) throws IOException {
        Path model = TinyRun.model(directory.resolve("model"));
        List<TokenizedRow> rows = TinyRun.data(3, 7).rows();
        try (Backend scalar = Backends.open(Backend.SCALAR);
                CausalLm lm = CausalLm.load(model, scalar, DecoderLoader.DENSE)) {
            Perplexity whole = Perplexity.of(lm.decoder(), Adapters.NONE, Perplexity.windows(rows, 32, 16, 2));
            double expected = Trainer.meanLoss(lm.decoder(), Adapters.NONE, Batches.inOrder(rows, 3));
            // The same terms, summed in doubles after a factor that is rounded once: a few units of the last place.
            assertThat(Math.abs(whole.nll() - expected)).isLessThanOrEqualTo(1e-6 * expected);
            assertThat(whole.value()).isEqualTo(Math.exp(whole.nll()));
            List<Batch> short8 = Perplexity.windows(rows, 8, 3, 4);
            double sum = 0;
            long tokens = 0;
            for (Batch b : Perplexity.windows(rows, 8, 3, 1)) {
                sum += Trainer.meanLoss(lm.decoder(), Adapters.NONE, List.of(b)) * b.labelTokens();
                tokens += b.labelTokens();
            }
            Perplexity cut = Perplexity.of(lm.decoder(), Adapters.NONE, short8);
            assertThat(cut.tokens()).isEqualTo(tokens).isEqualTo(whole.tokens());
            assertThat(Math.abs(cut.nll() - sum / tokens)).isLessThanOrEqualTo(1e-6 * cut.nll());
            assertThat(cut.nll()).as("less context is another number").isNotEqualTo(whole.nll());
        }
    }

    @Test
    void windowsThatCannotBeAreRefused() {
        List<TokenizedRow> rows = List.of(new TokenizedRow(new int[]{1, 2, 3}, 0, 0));
        assertThatThrownBy(() -> Perplexity.windows(rows, 1, 1, 1)).hasMessageContaining("--max-seq-length 1");
        assertThatThrownBy(() -> Perplexity.windows(rows, 4, 0, 1)).hasMessageContaining("--stride 0");
        assertThatThrownBy(() -> Perplexity.windows(rows, 4, 5, 1)).hasMessageContaining("--stride 5");
    }
}
