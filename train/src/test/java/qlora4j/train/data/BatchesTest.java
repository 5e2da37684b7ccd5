package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.IntStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

class BatchesTest {
    /** Rows of several lengths; every token tells its row and place. */
    private static List<TokenizedRow> rows(int n) {
        return IntStream.range(0, n).mapToObj(r -> {
            int length = 2 + r * 7 % 5;
            return new TokenizedRow(IntStream.range(0, length).map(i -> 100 * r + i).toArray(), r % length, 0);
        }).toList();
    }

    @Test
    void laysRowsOutWithoutPadding() {
        TokenizedRow first = new TokenizedRow(new int[]{10, 11, 12, 13}, 2, 0);
        TokenizedRow second = new TokenizedRow(new int[]{20, 21}, 1, 0);
        TokenizedRow third = new TokenizedRow(new int[]{30, 31, 32}, 0, 0);
        List<Batch> batches = Batches.inOrder(List.of(first, second, third), 2);
        assertThat(batches).hasSize(2);
        Batch batch = batches.getFirst();
        assertThat(batch.tokens()).containsExactly(10, 11, 12, 13, 20, 21);
        assertThat(batch.labels()).containsExactly(-100, 12, 13, -100, 21, -100);
        assertThat(batch.cuLengths()).containsExactly(0, 4, 6);
        assertThat(batch.positions()).containsExactly(0, 1, 2, 3, 0, 1);
        assertThat(batch.sample()).containsExactly(0, 0, 0, 0, 1, 1);
        assertThat(batch.labelTokens()).isEqualTo(3);
        assertThat(batch.samples()).isEqualTo(2);
        Batch last = batches.getLast();
        assertThat(last.tokens()).containsExactly(30, 31, 32);
        assertThat(last.labels()).as("nothing predicts a first token").containsExactly(31, 32, -100);
        assertThat(last.cuLengths()).containsExactly(0, 3);
        assertThat(last.sample()).containsExactly(2, 2, 2);
        assertThat(last.labelTokens()).isEqualTo(2);
    }

    @Property(tries = 200)
    void everyEpochReadsEveryRowOnce(@ForAll @IntRange(min = 1, max = 40) int n,
            @ForAll @IntRange(min = 1, max = 5) int perDevice, @ForAll @IntRange(min = 1, max = 4) int accumulation,
            @ForAll long seed) {
        Batches batches = new Batches(rows(n), perDevice, accumulation, seed);
        assertThat(batches.stepsPerEpoch()).isEqualTo((n + perDevice * accumulation - 1) / (perDevice * accumulation));
        for (int epoch = 0; epoch < 3; epoch++) {
            List<Integer> read = new ArrayList<>();
            for (int s = 0; s < batches.stepsPerEpoch(); s++) {
                GlobalBatch batch = batches.at(epoch * batches.stepsPerEpoch() + s);
                assertThat(batch.epoch()).isEqualTo(epoch);
                assertThat(batch.microBatches()).isNotEmpty().allMatch(micro -> micro.samples() <= perDevice
                        && micro.labelTokens() > 0);
                read.addAll(batch.rows());
            }
            assertThat(read).containsExactlyInAnyOrderElementsOf(IntStream.range(0, n).boxed().toList());
        }
    }

    @Property(tries = 200)
    void theSplitIntoMicroBatchesChangesNothing(@ForAll @IntRange(min = 1, max = 40) int n, @ForAll long seed,
            @ForAll @IntRange(min = 0, max = 20) int step) {
        GlobalBatch whole = new Batches(rows(n), 12, 1, seed).at(step);
        for (int perDevice : new int[]{1, 2, 3, 4, 6}) {
            GlobalBatch split = new Batches(rows(n), perDevice, 12 / perDevice, seed).at(step);
            assertThat(split.rows()).isEqualTo(whole.rows());
            assertThat(split.labelTokens()).isEqualTo(whole.labelTokens());
            assertThat(split.tokens()).isEqualTo(whole.tokens());
            Batch one = whole.microBatches().getFirst();
            assertThat(joined(split, Batch::tokens)).containsExactly(one.tokens());
            assertThat(joined(split, Batch::labels)).containsExactly(one.labels());
            assertThat(joined(split, Batch::positions)).containsExactly(one.positions());
            assertThat(joined(split, Batch::sample)).containsExactly(one.sample());
        }
    }

    private static int[] joined(GlobalBatch batch, Function<Batch, int[]> part) {
        return batch.microBatches().stream().map(part).flatMapToInt(IntStream::of).toArray();
    }

    @Property(tries = 100)
    void aStepIsAFunctionOfSeedAndNumber(@ForAll @IntRange(min = 2, max = 30) int n, @ForAll long seed,
            @ForAll @IntRange(min = 0, max = 60) int step) {
        Batches walked = new Batches(rows(n), 2, 1, seed);
        for (int s = 0; s < step; s++) {
            walked.at(s);
        }
        assertThat(new Batches(rows(n), 2, 1, seed).at(step).rows()).isEqualTo(walked.at(step).rows());
    }

    @Test
    void epochsAndSeedsHaveOrdersOfTheirOwn() {
        Set<List<Integer>> orders = new HashSet<>();
        for (long seed = 0; seed < 4; seed++) {
            Batches batches = new Batches(rows(30), 30, 1, seed);
            orders.add(batches.at(0).rows());
            orders.add(batches.at(1).rows());
        }
        // Two of eight random orders of 30 rows are equal with a chance of 28 / 30!.
        assertThat(orders).hasSize(8).doesNotContain(IntStream.range(0, 30).boxed().toList());
    }

    @Test
    void countsEpochs() {
        Batches batches = new Batches(rows(10), 2, 2, 7);
        assertThat(batches.stepsPerEpoch()).isEqualTo(3);
        assertThat(IntStream.rangeClosed(0, 4).mapToObj(batches::epochsAfter)).containsExactly(0.0, 0.4, 0.8, 1.0, 1.4);
        assertThat(batches.at(2).rows()).as("the last of an epoch").hasSize(2);
    }

    @Test
    void refusesWhatCannotBe() {
        assertThatThrownBy(() -> new Batches(List.of(), 1, 1, 0)).hasMessageContaining("no rows");
        assertThatThrownBy(() -> new Batches(rows(1), 0, 1, 0)).hasMessageContaining("--per-device-train-batch-size");
        assertThatThrownBy(() -> new Batches(rows(1), 1, 0, 0)).hasMessageContaining("--gradient-accumulation-steps");
        assertThatThrownBy(() -> new Batches(rows(1), 1, 1, 0).at(-1)).hasMessageContaining("-1");
        assertThatThrownBy(() -> Batches.inOrder(rows(1), 0)).hasMessageContaining("0");
    }

    @Test
    void splitsRowsBySeed() {
        List<Row> rows = IntStream.range(0, 50).mapToObj(i -> Samples.pair("p" + i, "c")).toList();
        Split split = Split.of(rows, 0.2, 3);
        assertThat(split.eval()).hasSize(10).isSubsetOf(rows);
        assertThat(split.train()).hasSize(40).doesNotContainAnyElementsOf(split.eval());
        assertThat(split.train()).isEqualTo(rows.stream().filter(row -> !split.eval().contains(row)).toList());
        assertThat(Split.of(rows, 0.2, 3)).isEqualTo(split);
        assertThat(Split.of(rows, 0.2, 4)).isNotEqualTo(split);
        assertThatThrownBy(() -> Split.of(rows, 0.001, 3)).isInstanceOf(DataException.class)
                .hasMessageContaining("leaves 0");
        assertThatThrownBy(() -> Split.of(rows, 0.999, 3)).isInstanceOf(DataException.class)
                .hasMessageContaining("0 to train");
        assertThatThrownBy(() -> Split.of(rows, Double.NaN, 3)).hasMessageContaining("NaN");
    }
}
