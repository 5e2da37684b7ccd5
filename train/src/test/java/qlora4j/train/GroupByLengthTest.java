package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.train.data.Batches;
import qlora4j.train.data.GlobalBatch;
import qlora4j.train.data.TokenizedData;

/** Rows of about the same length in the same step. */
class GroupByLengthTest {
    @ParameterizedTest
    @CsvSource({"101,4,2", "7,2,1", "400,1,1", "3,8,2"})
    void eachEpochReadsEachRowOnceSortedWithinRuns(int n, int perDevice, int accumulation) {
        TokenizedData data = TinyRun.data(4, n);
        int global = perDevice * accumulation;
        int run = Math.clamp(n / (4L * global), 1, 50) * global;
        int longest = data.rows().stream().mapToInt(r -> r.length()).max().orElseThrow();
        Batches grouped = new Batches(data, perDevice, accumulation, 5, true);
        Batches again = new Batches(data, perDevice, accumulation, 5, true);
        List<Integer> first = new ArrayList<>();
        for (int epoch = 0; epoch < 2; epoch++) {
            List<Integer> read = new ArrayList<>();
            for (int s = 0; s < grouped.stepsPerEpoch(); s++) {
                GlobalBatch b = grouped.at(epoch * grouped.stepsPerEpoch() + s);
                read.addAll(b.rows());
                assertThat(again.at(b.step()).rows()).isEqualTo(b.rows());
            }
            assertThat(read).containsExactlyInAnyOrderElementsOf(IntStream.range(0, n).boxed().toList());
            assertThat(data.rows().get(read.getFirst()).length()).isEqualTo(longest);
            int unsorted = 0;
            for (int i = 1; i < n; i++) {
                boolean sorted = data.rows().get(read.get(i)).length() <= data.rows().get(read.get(i - 1)).length();
                unsorted += sorted || i % run == 0 ? 0 : 1;
            }
            // The longest and the row whose place it took are the only ones out of order.
            assertThat(unsorted).isLessThanOrEqualTo(2);
            if (epoch == 0) {
                first = read;
            } else if (n > 10) {
                assertThat(read).isNotEqualTo(first);
            }
        }
        int step = grouped.stepsPerEpoch();
        assertThat(new Batches(data, perDevice, accumulation, 5, true).at(step).rows())
                .as("a step does not depend on those before").isEqualTo(grouped.at(step).rows());
    }
}
