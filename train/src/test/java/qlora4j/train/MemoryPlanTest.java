package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.optim.Residency;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;
import qlora4j.train.data.TokenizedData;

/** What is predicted before anything is loaded, against what a run holds. */
class MemoryPlanTest {
    private static final TokenizedData DATA = TinyRun.data(5, 12);

    @TempDir
    private static Path directory;
    private static Path model;

    @BeforeAll
    static void write() throws IOException {
        model = TinyRun.model(directory.resolve("model"));
    }

    /** Within 5 %: only a run's few scalars and a part of a page are not predicted. */
    @ParameterizedTest
    @CsvSource({"100,false,true,0", "100,true,true,0.1", "50,false,true,0", "0,true,true,0", "100,false,false,0.1"})
    void thePeakIsAsPredicted(double percent, boolean checkpointing, boolean nf4, double dropout) throws IOException {
        DecoderLoader loader = nf4 ? DecoderLoader.QLORA : DecoderLoader.DENSE;
        TrainSettings settings = TinyRun.settings(2, 3, 1, new Residency.Percent(percent), checkpointing, 0);
        try (Backend cpu = Backends.open(Backend.CPU, null, 2); CausalLm lm = CausalLm.load(model, cpu, loader)) {
            Adapter adapter = TinyRun.adapter(lm, "a", 4, dropout);
            MemoryPlan plan = MemoryPlan.predict(cpu, TinyRun.CONFIG, loader, adapter.config(), settings,
                    SftTrainer.largest(DATA.rows(), settings.perDeviceBatch()));
            try (SftTrainer trainer = new SftTrainer(lm, adapter, DATA, null, settings, directory.resolve("out"))) {
                trainer.run(new SftTrainer.Listener() {
                });
                for (MemoryUse use : new MemoryUse[]{MemoryUse.WEIGHTS, MemoryUse.ADAPTERS, MemoryUse.GRADIENTS,
                        MemoryUse.ACTIVATIONS, MemoryUse.CONSTANTS}) {
                    assertThat(plan.bytes().get(use)).as(use.name()).isEqualTo(cpu.ledger().held(use));
                }
            }
            double measured = cpu.ledger().peak();
            assertThat(Math.abs(plan.total() - measured) / measured)
                    .as("predicted %s (%d), measured %s", plan.line(), plan.total(), measured)
                    .isLessThanOrEqualTo(0.05);
        }
    }

    @ParameterizedTest
    @CsvSource({"false,0", "true,0", "false,0.1", "true,0.1"})
    void theLayoutIsCloseToTheLeastPossible(boolean checkpointing, double dropout) throws IOException {
        TrainSettings settings = TinyRun.settings(2, 3, 1, Residency.ALL, checkpointing, 0);
        try (Backend cpu = Backends.open(Backend.CPU, null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA)) {
            Adapter adapter = TinyRun.adapter(lm, "a", 4, dropout);
            ArenaPlan plan = ArenaPlan.of(s -> lm.decoder().loss(s, SftTrainer.largest(DATA.rows(), 3),
                    Trainer.training(adapter.slot(), dropout, settings.seed(), Tensor.shapeOnly(DType.I32, 1)),
                    new qlora4j.model.Decoder.LossOptions(true, checkpointing), Tensor.shapeOnly(DType.F32, 1),
                    Tensor.shapeOnly(DType.F64, 1), null));
            assertThat(plan.tensors()).isPositive();
            assertThat(plan.bytes()).isBetween(plan.lowerBound(), (long) (1.2 * plan.lowerBound()));
        }
    }
}
