package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.OptionalInt;
import java.util.stream.Stream;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.EdgeCasesMode;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.DoubleRange;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.RopeConfig;
import qlora4j.model.TokenBatch;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;
import qlora4j.train.data.Batches;
import qlora4j.train.data.GlobalBatch;
import qlora4j.train.data.Packing;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.data.TokenizedRow;

/** What a training step does not depend on, over small models of all shapes on an NF4 base. */
class StepPropertiesTest {
    /** What packing may change of a loss, relatively: only the order of float32's sums. In 600 tries it was 2.8e-8 at most. */
    private static final double LOSS = 1e-6;
    /** The same of a gradient's norm. In 600 tries it was 5.1e-7 at most (1.3e-7 on average); four times that. */
    private static final double GRADIENT = 2e-6;
    private static Path directory;
    private static Backend cpu;
    private static int adapters;

    @BeforeContainer
    static void open() throws IOException {
        directory = Files.createTempDirectory("step-properties");
        cpu = Backends.open(Backend.CPU, null, 2);
    }

    @AfterContainer
    static void close() throws IOException {
        cpu.close();
        try (Stream<Path> files = Files.walk(directory)) {
            for (Path p : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(p);
            }
        }
    }

    /** A model, an adapter on it, and rows. */
    private record Setup(DecoderConfig config, int rank, double dropout, TokenizedData data) {
        @Override
        public String toString() {
            return config + ", rank " + rank + ", dropout " + dropout + ", lengths "
                    + data.rows().stream().map(TokenizedRow::length).toList();
        }
    }

    @Provide
    static Arbitrary<Setup> setups() {
        Arbitrary<DecoderConfig> configs = Combinators.combine(Arbitraries.integers().between(1, 3),
                Arbitraries.integers().between(1, 2), Arbitraries.integers().between(1, 3), Arbitraries.of(2, 4, 8),
                Arbitraries.of(8, 20, 33), Arbitraries.of(0, 3), Arbitraries.of(true, false))
                .as(StepPropertiesTest::config);
        return Combinators.combine(configs, Arbitraries.integers().between(1, 4), Arbitraries.of(0.0, 0.3),
                Arbitraries.integers().between(0, 1000), Arbitraries.integers().between(2, 8))
                .as((config, rank, dropout, seed, rows) -> new Setup(config, rank, dropout, TinyRun.data(seed, rows)));
    }

    private static DecoderConfig config(int layers, int kvHeads, int group, int headDim, int width, int window,
            boolean tied) {
        var architecture = window > 0 ? DecoderConfig.Architecture.MISTRAL : DecoderConfig.Architecture.LLAMA;
        return new DecoderConfig(architecture, TinyRun.CONFIG.vocab(), width, width + 3, layers, kvHeads * group,
                kvHeads, headDim, 1e-5, 256, tied, window, 0, RopeConfig.unscaled(10000), false, false, false, false,
                DType.F32, DecoderConfig.SILU, OptionalInt.of(1), List.of(2), OptionalInt.of(3), null);
    }

    /** What one or more steps leave. */
    private record Did(double loss, Tensor grads, Tensor values, long spilled) {
        void isBitForBit(Did other) {
            assertThat(loss).isFinite().isPositive();
            assertThat(loss).isEqualTo(other.loss);
            assertThat(grads.data().mismatch(other.grads.data())).as("gradients").isEqualTo(-1);
            assertThat(values.data().mismatch(other.values.data())).as("values").isEqualTo(-1);
        }

        void differsByTheOrderOfSums(Did other) {
            assertThat(Math.abs(loss - other.loss)).as("loss %s and %s", loss, other.loss)
                    .isLessThanOrEqualTo(LOSS * other.loss);
            double difference = 0;
            double norm = 0;
            for (long i = 0; i < grads.size(); i++) {
                difference += Math.pow(grads.get(i) - other.grads.get(i), 2);
                norm += Math.pow(other.grads.get(i), 2);
            }
            assertThat(norm).isPositive();
            assertThat(Math.sqrt(difference / norm)).as("gradients").isLessThanOrEqualTo(GRADIENT);
        }
    }

    private static CausalLm load(Setup setup) {
        try {
            return CausalLm.load(TinyRun.model(directory.resolve("model"), setup.config), cpu, DecoderLoader.QLORA);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static Did train(CausalLm lm, Setup setup, TrainSettings settings, List<GlobalBatch> steps) {
        String name = "adapter " + adapters++;
        Adapter adapter = TinyRun.adapter(lm, name, setup.rank, setup.dropout);
        int tokens = setup.data.rows().stream().mapToInt(TokenizedRow::length).sum();
        try (Trainer trainer = new Trainer(lm.decoder(), adapter.parameters(), adapter.slot(), setup.dropout, settings,
                settings.maxSteps(), TokenBatch.largest(setup.data.rows().size(), tokens), directory)) {
            double loss = 0;
            for (GlobalBatch batch : steps) {
                loss = trainer.step(batch).loss();
            }
            return new Did(loss, copy(adapter.parameters().flatGrads()), copy(adapter.parameters().flatParams()),
                    trainer.optimizer().states().statistics().bytesSpilled());
        }
    }

    private static Tensor copy(Tensor t) {
        return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
    }

    private static List<GlobalBatch> steps(Setup setup, int steps, int perDevice, int accumulation) {
        Batches batches = new Batches(setup.data, perDevice, accumulation, 5);
        List<GlobalBatch> all = new ArrayList<>();
        for (int step = 0; step < steps; step++) {
            all.add(batches.at(step));
        }
        return all;
    }

    @Property(tries = 15, edgeCases = EdgeCasesMode.NONE)
    void checkpointingChangesNoBit(@ForAll("setups") Setup setup, @ForAll @IntRange(min = 1, max = 3) int perDevice) {
        try (CausalLm lm = load(setup)) {
            List<GlobalBatch> steps = steps(setup, 2, perDevice, 1);
            TrainSettings settings = TinyRun.settings(2, perDevice, 1, Residency.ALL, false, 0);
            Did plain = train(lm, setup, settings, steps);
            train(lm, setup, settings.withCheckpointing(true), steps).isBitForBit(plain);
        }
    }

    @Property(tries = 15, edgeCases = EdgeCasesMode.NONE)
    void theOptimizersBudgetChangesNoBit(@ForAll("setups") Setup setup,
            @ForAll @DoubleRange(min = 0, max = 99) double percent) {
        try (CausalLm lm = load(setup)) {
            List<GlobalBatch> steps = steps(setup, 3, 2, 1);
            TrainSettings settings = TinyRun.settings(3, 2, 1, Residency.ALL, false, 0);
            Did resident = train(lm, setup, settings, steps);
            Did paged = train(lm, setup, settings.withResident(new Residency.Percent(percent)), steps);
            paged.isBitForBit(resident);
            assertThat(resident.spilled).isZero();
            assertThat(paged.spilled).isPositive();
        }
    }

    @Property(tries = 15, edgeCases = EdgeCasesMode.NONE)
    void theSplitOfABatchChangesOnlyTheOrderOfSums(@ForAll("setups") Setup setup,
            @ForAll @IntRange(min = 1, max = 3) int perDevice) {
        try (CausalLm lm = load(setup)) {
            int rows = setup.data.rows().size();
            List<GlobalBatch> whole = steps(setup, 1, rows, 1);
            List<GlobalBatch> split = List.of(new GlobalBatch(0, 0, whole.getFirst().rows(), Batches.inOrder(
                    whole.getFirst().rows().stream().map(setup.data.rows()::get).toList(), perDevice)));
            TrainSettings settings = TinyRun.settings(1, rows, 1, Residency.ALL, false, 0);
            Did together = train(lm, setup, settings, whole);
            // Both add the same terms; dropout is drawn for a row's place in the step.
            train(lm, setup, settings, split).differsByTheOrderOfSums(together);
        }
    }

    @Property(tries = 15, edgeCases = EdgeCasesMode.NONE)
    void packingChangesOnlyTheOrderOfSums(@ForAll("setups") Setup setup,
            @ForAll @IntRange(min = 24, max = 80) int capacity) {
        TokenizedData rows = setup.data;
        TokenizedData packed = new TokenizedData(rows.rows(), rows.sources(), rows.report(),
                Packing.bestFitDecreasing(rows.rows(), capacity));
        try (CausalLm lm = load(setup)) {
            GlobalBatch together = new Batches(packed, packed.sequences().size(), 1, 5).at(0);
            GlobalBatch oneByOne = new GlobalBatch(0, 0, together.rows(), Batches.inOrder(
                    together.rows().stream().map(rows.rows()::get).toList(), 1));
            TrainSettings settings = TinyRun.settings(1, 1, 1, Residency.ALL, false, 0);
            Did expected = train(lm, setup, settings, List.of(oneByOne));
            train(lm, setup, settings, List.of(together)).differsByTheOrderOfSums(expected);
        }
    }
}
