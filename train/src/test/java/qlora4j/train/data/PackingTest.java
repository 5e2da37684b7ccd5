package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

class PackingTest {
    private static List<TokenizedRow> rows(int... lengths) {
        return Arrays.stream(lengths).mapToObj(n -> new TokenizedRow(new int[n], 1, 0)).toList();
    }

    private static TokenizedData data(int capacity, int... lengths) {
        List<TokenizedRow> rows = rows(lengths);
        List<Row> sources = rows.stream().map(_ -> Samples.pair("p", "c")).toList();
        return new TokenizedData(rows, sources, new DataReport(capacity, rows.size(), rows.size(), 0, List.of(),
                List.of(), Arrays.stream(lengths).sum(), rows.stream().mapToInt(TokenizedRow::labelTokens).sum()));
    }

    @Test
    void aRowGoesWhereItLeavesTheLeastRoom() {
        Packing packing = Packing.bestFitDecreasing(rows(3, 7, 2, 8, 5), 10);
        // 8; 7; 5; then 3 to the 7 (room 3, not the 5's 5), 2 to the 8.
        assertThat(packing.sequences()).containsExactly(List.of(3, 2), List.of(1, 0), List.of(4));
        assertThat(packing.fill()).isEqualTo(25 / 30.0);
        assertThat(packing.summary())
                .isEqualTo("5 rows in 3 sequences of at most 10 tokens, 83.3 % full (1.7 rows each)");
    }

    @Test
    void aRowLongerThanASequenceIsRefused() {
        assertThatThrownBy(() -> Packing.bestFitDecreasing(rows(3, 11), 10)).hasMessageContaining("11 tokens");
    }

    @Property(tries = 200)
    void everyRowStandsInOneSequenceThatIsNotTooLong(
            @ForAll @Size(min = 1, max = 60) List<@IntRange(min = 2, max = 40) Integer> lengths,
            @ForAll @IntRange(min = 40, max = 90) int capacity) {
        int[] n = lengths.stream().mapToInt(i -> i).toArray();
        Packing packing = Packing.bestFitDecreasing(rows(n), capacity);
        assertThat(packing.sequences().stream().flatMap(List::stream))
                .containsExactlyInAnyOrderElementsOf(IntStream.range(0, n.length).boxed().toList());
        int[] sums = packing.sequences().stream().mapToInt(s -> s.stream().mapToInt(r -> n[r]).sum()).toArray();
        assertThat(Arrays.stream(sums).max().getAsInt()).isLessThanOrEqualTo(capacity);
        // Best fit leaves at most one sequence half empty: two such would have been one.
        assertThat(Arrays.stream(sums).filter(s -> 2 * s <= capacity).count()).isLessThanOrEqualTo(1);
        assertThat(packing.tokens()).isEqualTo(Arrays.stream(n).sum());
        assertThat(Packing.bestFitDecreasing(rows(n), capacity)).isEqualTo(packing);
    }

    @Property(tries = 100)
    void everyEpochReadsEveryRowOnceAndEverySampleHasItsPositions(
            @ForAll @Size(min = 1, max = 40) List<@IntRange(min = 2, max = 20) Integer> lengths,
            @ForAll @IntRange(min = 1, max = 3) int perDevice, @ForAll @IntRange(min = 1, max = 3) int accumulation,
            @ForAll long seed) {
        TokenizedData data = data(20, lengths.stream().mapToInt(i -> i).toArray()).packed();
        Batches batches = new Batches(data, perDevice, accumulation, seed);
        assertThat(batches.stepsPerEpoch())
                .isEqualTo(Math.ceilDiv(data.sequences().size(), perDevice * accumulation));
        for (int epoch = 0; epoch < 2; epoch++) {
            List<Integer> read = new ArrayList<>();
            for (int s = 0; s < batches.stepsPerEpoch(); s++) {
                GlobalBatch batch = batches.at(epoch * batches.stepsPerEpoch() + s);
                read.addAll(batch.rows());
                int sample = 0;
                for (Batch micro : batch.microBatches()) {
                    assertThat(micro.tokens().length).isLessThanOrEqualTo(20 * perDevice);
                    for (int i = 0; i < micro.samples(); i++, sample++) {
                        int row = batch.rows().get(sample);
                        int start = micro.cuLengths()[i];
                        assertThat(micro.cuLengths()[i + 1] - start).isEqualTo(lengths.get(row));
                        for (int t = start; t < micro.cuLengths()[i + 1]; t++) {
                            assertThat(micro.positions()[t]).isEqualTo(t - start);
                            assertThat(micro.sample()[t]).isEqualTo(sample);
                        }
                    }
                }
            }
            assertThat(read).containsExactlyInAnyOrderElementsOf(IntStream.range(0, lengths.size()).boxed().toList());
            assertThat(batches.epochsAfter((epoch + 1) * batches.stepsPerEpoch())).isEqualTo(epoch + 1);
        }
    }
}
