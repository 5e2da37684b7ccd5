package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.TokenizedData;

/** Runs that are stopped and resumed. */
class SftTrainerTest {
    private static final int STEPS = 6;
    private static final int SAVE = 2;
    private static final TrainSettings SETTINGS = TinyRun.settings(STEPS, 2, 2, new Residency.Percent(50), false, SAVE);
    private static final String ADAPTER = "adapter_model.safetensors";
    private static final TokenizedData DATA = TinyRun.data(2, 10);
    private static final TokenizedData HELD_OUT = TinyRun.data(3, 3);
    private static Backend cpu;
    private static CausalLm lm;
    private static Path whole;
    private static int runs;

    @TempDir
    private static Path directory;

    @BeforeAll
    static void uninterrupted() throws IOException {
        cpu = Backends.open(Backend.CPU, null, 2);
        lm = CausalLm.load(TinyRun.model(directory.resolve("model")), cpu, DecoderLoader.QLORA);
        whole = directory.resolve("whole");
        train(whole, SETTINGS, DATA, STEPS + 1);
    }

    @AfterAll
    static void close() {
        lm.close();
        cpu.close();
    }

    /** The run was stopped. */
    private static final class Stopped extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    /** A run as a new process would make it, stopped within a step; says where it went on, if anywhere. */
    private static Optional<Path> train(Path output, TrainSettings settings, TokenizedData data, int stopIn)
            throws IOException {
        Adapter adapter = TinyRun.adapter(lm, "run " + runs++, 4, 0.2);
        try (SftTrainer trainer = new SftTrainer(lm, adapter, data, HELD_OUT, settings, output)) {
            Optional<Path> from = trainer.resume();
            trainer.run(new SftTrainer.Listener() {
                @Override
                public void step(Trainer.StepResult result, int totalSteps, double tokensPerSecond) {
                    if (result.step() == stopIn) {
                        throw new Stopped();
                    }
                }
            });
            return from;
        }
    }

    private static void stopped(Path output, int stopIn) {
        assertThatThrownBy(() -> train(output, SETTINGS, DATA, stopIn)).isInstanceOf(Stopped.class);
        assertThat(output.resolve(ADAPTER)).as("the adapter appears at the end only").doesNotExist();
    }

    /** Each line without what a clock said. */
    private static List<JsonNode> metrics(Path output) throws IOException {
        List<JsonNode> lines = new ArrayList<>();
        for (String line : Files.readAllLines(output.resolve("metrics.jsonl"))) {
            JsonNode json = new ObjectMapper().readTree(line);
            ((com.fasterxml.jackson.databind.node.ObjectNode) json).remove("tokens_per_second");
            lines.add(json);
        }
        return lines;
    }

    private static void equalsTheWholeRun(Path output) throws IOException {
        assertThat(output.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
        assertThat(output.resolve("adapter_config.json")).hasSameBinaryContentAs(whole.resolve("adapter_config.json"));
        assertThat(metrics(output)).isEqualTo(metrics(whole));
    }

    @Test
    void aRunLogsEachStepOnce() throws IOException {
        List<Integer> losses = new ArrayList<>();
        List<Integer> evaluations = new ArrayList<>();
        for (JsonNode line : metrics(whole)) {
            assertThat(line.path("loss").asDouble(0)).isFinite();
            (line.has("loss") ? losses : evaluations).add(line.get("step").asInt());
        }
        assertThat(losses).containsExactly(1, 2, 3, 4, 5, 6);
        assertThat(evaluations).containsExactly(0, 2, 4, 6);
    }

    /** Stopped in step 6, when steps 4 to 5 were logged, and again in step 5. */
    @Test
    void aResumedRunEqualsAnUninterruptedOneByteForByte() throws IOException {
        Path output = directory.resolve("stopped");
        stopped(output, 6);
        assertThat(metrics(output).getLast().get("step").asInt()).isEqualTo(5);
        stopped(output, 5);
        assertThat(train(output, SETTINGS, DATA, STEPS + 1)).contains(output.resolve("checkpoint-4"));
        equalsTheWholeRun(output);
        assertThat(output.resolve("checkpoint-2")).as("two checkpoints are kept").doesNotExist();
        assertThat(output.resolve("checkpoint-6")).isDirectoryContaining(f -> f.endsWith(ADAPTER));
    }

    @Test
    void aRunThatIsDoneIsOnlyWrittenAgain() throws IOException {
        Path output = directory.resolve("done");
        train(output, SETTINGS, DATA, STEPS + 1);
        Files.delete(output.resolve(ADAPTER));
        assertThat(train(output, SETTINGS, DATA, 1)).contains(output.resolve("checkpoint-6"));
        equalsTheWholeRun(output);
    }

    @Test
    void withoutACheckpointARunStartsAnew() throws IOException {
        Path output = directory.resolve("anew");
        stopped(output, 2);
        assertThat(train(output, SETTINGS, DATA, STEPS + 1)).isEmpty();
        equalsTheWholeRun(output);
    }

    @Test
    void aHalfWrittenCheckpointIsNone() throws IOException {
        Path output = directory.resolve("half");
        stopped(output, 4);
        Path half = output.resolve(".unfinished-4");
        Files.createDirectories(half);
        Files.write(half.resolve("trainer_state.json"), new byte[]{'{'});
        Files.createDirectories(output.resolve("checkpoint-best"));
        assertThat(train(output, SETTINGS, DATA, STEPS + 1)).contains(output.resolve("checkpoint-2"));
        equalsTheWholeRun(output);
        assertThat(half).doesNotExist();
    }

    @Test
    void otherSettingsAreRefusedByFlag() throws IOException {
        Path output = directory.resolve("other");
        stopped(output, 3);
        TrainSettings faster = SETTINGS.withLearningRate(0.5);
        assertThatThrownBy(() -> train(output, faster, DATA, 0)).isInstanceOf(TrainingException.class)
                .hasMessageContainingAll("--learning-rate", "0.01", "0.5", "checkpoint-2", "--output");
        assertThatThrownBy(() -> train(output, SETTINGS.withBatch(4, 32), DATA, 0))
                .isInstanceOf(TrainingException.class).hasMessageContaining("--per-device-train-batch-size");
        assertThatThrownBy(() -> train(output, SETTINGS, TinyRun.data(4, 10), 0))
                .isInstanceOf(TrainingException.class).hasMessageContaining("--data");
        Adapter adapter = TinyRun.adapter(lm, "another rank", 2, 0.2);
        try (SftTrainer trainer = new SftTrainer(lm, adapter, DATA, null, SETTINGS, output)) {
            assertThatThrownBy(trainer::resume).isInstanceOf(TrainingException.class)
                    .hasMessageContaining("--lora-r");
        }
    }
}
