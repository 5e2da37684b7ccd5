package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;
import qlora4j.train.data.Batches;
import qlora4j.train.data.TokenizedRow;

class TrainerTest {
    private static final double DROPOUT = 0.3;
    private static final List<TokenizedRow> ROWS = TinyRun.data(1, 9).rows();
    private static Backend cpu;
    private static CausalLm lm;
    private static int adapters;

    @TempDir
    private static Path directory;

    @BeforeAll
    static void load() throws IOException {
        cpu = Backends.open(Backend.CPU, null, 2);
        lm = CausalLm.load(TinyRun.model(directory.resolve("model")), cpu, DecoderLoader.QLORA);
    }

    @AfterAll
    static void close() {
        lm.close();
        cpu.close();
    }

    private static Adapter adapter() {
        return TinyRun.adapter(lm, "adapter " + adapters++, 4, DROPOUT);
    }

    private static Trainer trainer(Adapter adapter, TrainSettings settings) {
        return new Trainer(lm.decoder(), adapter.parameters(), adapter.slot(), DROPOUT, settings, settings.maxSteps(),
                SftTrainer.largest(ROWS, settings.perDeviceBatch()), directory);
    }

    private static Tensor copy(Tensor t) {
        return Tensor.zeros(t.dtype(), t.shape()).copyFrom(t);
    }

    /**
     * Four rows at once, two and two, or one by one, under dropout and with different numbers of labels: only the order
     * of sums differs, a few of float32's epsilons of 1.2e-7.
     */
    @Test
    void theSplitOfABatchChangesNothing() {
        double loss = 0;
        Tensor grads = null;
        for (int perDevice : new int[]{4, 2, 1}) {
            TrainSettings settings = TinyRun.settings(2, perDevice, 4 / perDevice, Residency.ALL, false, 0);
            Adapter adapter = adapter();
            try (Trainer trainer = trainer(adapter, settings)) {
                Trainer.StepResult r = trainer
                        .step(new Batches(ROWS, perDevice, settings.accumulation(), 5).at(0));
                Tensor g = copy(adapter.parameters().flatGrads());
                if (grads == null) {
                    loss = r.loss();
                    grads = g;
                    assertThat(loss).isFinite();
                    continue;
                }
                assertThat(Math.abs(r.loss() - loss)).isLessThanOrEqualTo(1e-6 * loss);
                double difference = 0;
                double norm = 0;
                for (long i = 0; i < g.size(); i++) {
                    difference += Math.pow(g.get(i) - grads.get(i), 2);
                    norm += Math.pow(grads.get(i), 2);
                }
                assertThat(norm).isPositive();
                assertThat(Math.sqrt(difference / norm)).as("rows at once: %d", perDevice).isLessThanOrEqualTo(1e-6);
            }
        }
    }

    @ParameterizedTest
    @ValueSource(doubles = {Double.NaN, Double.POSITIVE_INFINITY})
    void whatIsNotFiniteStopsTheRun(double poison) {
        Adapter adapter = adapter();
        TrainSettings settings = TinyRun.settings(4, 2, 1, Residency.ALL, false, 0);
        Batches batches = new Batches(ROWS, 2, 1, 5);
        try (Trainer trainer = trainer(adapter, settings)) {
            assertThat(trainer.step(batches.at(0)).step()).isEqualTo(1);
            adapter.parameters().param("model.layers.1.mlp.up_proj.lora_B.weight").set(7, poison);
            Tensor before = copy(adapter.parameters().flatParams());
            assertThatThrownBy(() -> trainer.step(batches.at(1))).isInstanceOf(TrainingException.class)
                    .hasMessageContainingAll("step 2",
                            "value of model.layers.1.mlp.up_proj.lora_B.weight: 1 of", "Nothing was updated");
            assertThat(adapter.parameters().flatParams().data().mismatch(before.data())).isEqualTo(-1);
            assertThat(trainer.step()).isEqualTo(1);
        }
    }

    @Test
    void pagesOfTheOptimizerChangeNoBit() {
        Tensor expected = null;
        for (double percent : new double[]{100, 50, 0}) {
            Adapter adapter = adapter();
            TrainSettings settings = TinyRun.settings(4, 2, 1, new Residency.Percent(percent), true, 0);
            Tensor before = copy(adapter.parameters().flatParams());
            try (Trainer trainer = trainer(adapter, settings)) {
                Batches batches = new Batches(ROWS, 2, 1, 5);
                for (int step = 0; step < 4; step++) {
                    trainer.step(batches.at(step));
                }
                assertThat(trainer.optimizer().states().statistics().bytesSpilled() > 0).as("%s %% spills", percent)
                        .isEqualTo(percent < 100);
            }
            Tensor after = copy(adapter.parameters().flatParams());
            assertThat(after.data().mismatch(before.data())).isNotEqualTo(-1);
            for (long i = 0; i < after.size(); i++) {
                assertThat(after.get(i)).isFinite();
            }
            expected = expected == null ? after : expected;
            assertThat(after.data().mismatch(expected.data())).as("%s %%", percent).isEqualTo(-1);
            assertThat(after.dtype()).isEqualTo(DType.F32);
        }
    }
}
