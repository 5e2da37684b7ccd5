package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import java.util.logging.StreamHandler;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.Batches;
import qlora4j.train.data.TokenizedData;

/** Runs whose adapters begin with a part of the weights. */
class PrincipalTrainingTest {
    private static final String ADAPTER = "adapter_model.safetensors";
    private static final TokenizedData DATA = TinyRun.data(2, 10);
    private static final TrainSettings SETTINGS = TinyRun.settings(4, 2, 1, Residency.ALL, false, 2);

    @TempDir
    private static Path directory;
    private static Path model;

    @BeforeAll
    static void write() throws IOException {
        model = TinyRun.model(directory.resolve("model"));
    }

    private static LoraConfig config(String init, int turns) {
        return new LoraConfig(4, 8, 0.1, List.of(LoraConfig.ALL_LINEAR), null, 8)
                .withInit(LoraConfig.Init.named(init, turns));
    }

    private static double loss(CausalLm lm, String adapter) {
        return Trainer.meanLoss(lm.decoder(), lm.use(adapter), Batches.inOrder(DATA.rows(), 4));
    }

    /** Trains, stopped and resumed or not; returns the loss with the adapter on the base that it was trained on. */
    private static double train(String init, int turns, Path output, int stopIn) throws IOException {
        try (Backend cpu = Backends.open(Backend.CPU, null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA)) {
            Adapter adapter = lm.attach("a", config(init, turns));
            try (SftTrainer trainer = new SftTrainer(lm, adapter, DATA, null, SETTINGS, output)) {
                trainer.resume();
                trainer.run(new SftTrainer.Listener() {
                    @Override
                    public void step(Trainer.StepResult result, int totalSteps, double tokensPerSecond) {
                        if (result.step() == stopIn) {
                            throw new IllegalStateException("stopped");
                        }
                    }
                });
            }
            return loss(lm, "a");
        }
    }

    /** The dense model's loss is kept better than by quantizing alone, and what is saved is for the base as it was. */
    @ParameterizedTest
    @CsvSource({"pissa,1,8", "pissa_niter_4,1,8", "loftq,1,4", "loftq,3,8"})
    void resumesAndSavesAnAdapterForThePlainBase(String init, int turns, int savedRank) throws IOException {
        Path whole = directory.resolve(init + turns);
        double trained = train(init, turns, whole, -1);
        Path stopped = directory.resolve(init + turns + "-stopped");
        assertThatThrownBy(() -> train(init, turns, stopped, 4)).hasMessage("stopped");
        assertThat(train(init, turns, stopped, -1)).isEqualTo(trained);
        assertThat(stopped.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
        assertThat(Files.readString(whole.resolve("adapter_config.json"))).contains("\"r\": " + savedRank + ",",
                "\"init_lora_weights\": true");
        try (Backend cpu = Backends.open(Backend.CPU, null, 2);
                CausalLm dense = CausalLm.load(model, cpu, DecoderLoader.DENSE);
                CausalLm plain = CausalLm.load(model, cpu, DecoderLoader.QLORA)) {
            dense.load("a", whole);
            plain.load("a", whole);
            double onDense = loss(dense, "a");
            double before = loss(dense, CausalLm.BASE);
            // Quantizing moves this model's loss by less than a tenth of what training does.
            assertThat(onDense).isLessThan(before);
            assertThat(Math.abs(onDense - trained)).isLessThan(0.3 * (before - onDense));
            assertThat(Math.abs(loss(plain, "a") - trained)).isLessThan(0.3 * (before - onDense));
        }
    }

    @Test
    void whatCannotBeginSoIsRefused() throws IOException {
        try (Backend cpu = Backends.open(Backend.CPU, null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA)) {
            lm.attach("first", config("true", 1));
            assertThatThrownBy(() -> lm.attach("second", config("pissa", 1))).hasMessageContaining("[first]");
            assertThatThrownBy(() -> config("pissa", 1).withVariant(false, true)).hasMessageContaining("--use-dora");
            lm.attach("third", config("loftq", 1));
        }
    }

    /** Such a run starts with a much higher loss than the base has, and nothing else would say why. */
    @ParameterizedTest
    @CsvSource({"pissa_niter_4,0.1,1", "pissa_niter_4,0,0", "loftq,0.1,0"})
    void dropoutOfThePrincipalPartIsWarnedOf(String init, double dropout, int warnings) throws IOException {
        List<String> said = new ArrayList<>();
        Logger logger = Logger.getLogger("qlora4j.model.WeightInit");
        Handler handler = new StreamHandler() {
            @Override
            public synchronized void publish(LogRecord entry) {
                said.add(entry.getMessage());
            }
        };
        logger.addHandler(handler);
        try (Backend cpu = Backends.open(Backend.CPU, null, 2);
                CausalLm lm = CausalLm.load(model, cpu, DecoderLoader.QLORA)) {
            lm.attach("a", new LoraConfig(4, 8, dropout, List.of(LoraConfig.ALL_LINEAR), null, 8)
                    .withInit(LoraConfig.Init.named(init, 1)));
        } finally {
            logger.removeHandler(handler);
        }
        assertThat(said).hasSize(warnings).allMatch(line -> line.contains("--lora-dropout 0.1"));
    }
}
