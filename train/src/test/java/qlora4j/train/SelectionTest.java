package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.TokenizedData;

/** The best checkpoint and early stopping, on a run that begins to learn its few rows by heart. */
class SelectionTest {
    private static final String ADAPTER = "adapter_model.safetensors";
    private static final int STEPS = 12;
    private static final TokenizedData DATA = TinyRun.data(2, 4);
    private static final TokenizedData HELD_OUT = TinyRun.data(3, 3);
    private static Backend cpu;
    private static CausalLm lm;
    private static int runs;

    @TempDir
    private static Path directory;

    /** What a run said. */
    private static final class Log implements SftTrainer.Listener {
        private final Map<Integer, Double> losses = new TreeMap<>();
        private Path best;
        private int stopped;
        private final int stopIn;

        private Log(int stopIn) {
            this.stopIn = stopIn;
        }

        @Override
        public void step(Trainer.StepResult result, int totalSteps, double tokensPerSecond) {
            if (result.step() == stopIn) {
                throw new IllegalStateException("stopped");
            }
        }

        @Override
        public void evaluated(int step, double loss) {
            losses.put(step, loss);
        }

        @Override
        public void stoppedEarly(int step, int evaluations) {
            stopped = step;
        }

        @Override
        public void best(Path checkpoint, double metric) {
            best = checkpoint;
            assertThat(metric).isPositive();
        }
    }

    @BeforeAll
    static void open() throws IOException {
        cpu = Backends.open(Backend.CPU, null, 2);
        lm = CausalLm.load(TinyRun.model(directory.resolve("model")), cpu, DecoderLoader.QLORA);
    }

    @AfterAll
    static void close() {
        lm.close();
        cpu.close();
    }

    private static TrainSettings settings(Selection selection, int saveSteps, int limit) {
        TrainSettings d = TinyRun.settings(STEPS, 2, 1, Residency.ALL, false, 1);
        return new TrainSettings(STEPS, 0, 2, 1, 32, 0.1, d.schedule(), 0, d.maxGradNorm(), d.adam(), d.resident(),
                false, 1, saveSteps, limit, 1, 42).withSelection(selection);
    }

    private static Log run(Path output, TrainSettings settings, int stopIn) throws IOException {
        Adapter adapter = TinyRun.adapter(lm, "run " + runs++, 4, 0.2);
        Log log = new Log(stopIn);
        try (SftTrainer trainer = new SftTrainer(lm, adapter, DATA, HELD_OUT, settings, output)) {
            trainer.resume();
            trainer.run(log);
        }
        return log;
    }

    private static List<String> checkpoints(Path output) throws IOException {
        try (Stream<Path> files = Files.list(output)) {
            return files.map(f -> f.getFileName().toString()).filter(f -> f.startsWith("checkpoint-")).sorted()
                    .toList();
        }
    }

    /** Noise and grouping are functions of seed, step and rows: broken off anywhere, the run ends with the same bytes. */
    @Test
    void noiseAndGroupingResume() throws IOException {
        TrainSettings settings = settings(Selection.LAST, 1, 0).with(true, 5);
        Path whole = directory.resolve("noisy");
        run(whole, settings, -1);
        Path output = directory.resolve("noisy-stopped");
        assertThatThrownBy(() -> run(output, settings, 5)).hasMessage("stopped");
        assertThatThrownBy(() -> run(output, settings.with(true, 4), -1))
                .hasMessageContaining("--neftune-noise-alpha 5.0");
        run(output, settings, -1);
        assertThat(output.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
        Path quiet = directory.resolve("quiet");
        run(quiet, settings.with(true, 0), -1);
        assertThat(Files.mismatch(quiet.resolve(ADAPTER), whole.resolve(ADAPTER))).isNotEqualTo(-1);
    }

    private static int best(Log log) {
        Map<Integer, Double> after = new TreeMap<>(log.losses);
        after.remove(0);
        return after.entrySet().stream().min(Map.Entry.comparingByValue()).orElseThrow().getKey();
    }

    @Test
    void theRunEndsWithItsBestAdapterAndKeepsItsCheckpoint() throws IOException {
        Path output = directory.resolve("best");
        Log log = run(output, settings(new Selection(true, false, 0, 0), 5, 1), -1);
        int step = best(log);
        assertThat(step).as("the run must get worse for the test to say anything: %s", log.losses).isLessThan(STEPS);
        assertThat(log.best).isEqualTo(output.resolve("checkpoint-" + step));
        assertThat(output.resolve(ADAPTER)).hasSameBinaryContentAs(log.best.resolve(ADAPTER));
        assertThat(checkpoints(output)).contains("checkpoint-" + step).hasSizeLessThanOrEqualTo(2);
        Path last = directory.resolve("last");
        run(last, settings(Selection.LAST, 0, 0), -1);
        assertThat(Files.mismatch(output.resolve(ADAPTER), last.resolve(ADAPTER))).isNotEqualTo(-1);
    }

    /** Patience, its counter and the best step go on where they were, at whatever step the run is broken off. */
    @ParameterizedTest
    @ValueSource(ints = {2, 4, 5, 6, 7})
    void aResumedRunStopsAndEndsAsAnUninterruptedOne(int stopIn) throws IOException {
        TrainSettings settings = settings(new Selection(true, false, 3, 0), 1, 2);
        Path whole = directory.resolve("whole");
        if (!Files.exists(whole)) {
            Log log = run(whole, settings, -1);
            assertThat(log.stopped).isBetween(4, STEPS - 1).isEqualTo(best(log) + 3);
        }
        Path output = directory.resolve("stopped" + stopIn);
        try {
            run(output, settings, stopIn);
        } catch (IllegalStateException e) {
            run(output, settings, -1);
        }
        assertThat(output.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
        assertThat(checkpoints(output)).isEqualTo(checkpoints(whole));
        Files.delete(output.resolve(ADAPTER));
        assertThat(run(output, settings, 1).losses).as("a run that is done does nothing again").isEmpty();
        assertThat(output.resolve(ADAPTER)).hasSameBinaryContentAs(whole.resolve(ADAPTER));
    }

    @ParameterizedTest
    @CsvSource({"best_metric,'\"low\"',the best evaluation's number", "best_metric,'\"NaN\"',",
            "best_metric,null,the best",
            "best_global_step,1.5,a whole number", "early_stopping_patience_counter,-1,a whole number"})
    void aDamagedRecordOfTheBestIsNamed(String field, String value, String message) throws IOException {
        TrainSettings settings = settings(new Selection(true, false, 3, 0), 1, 2);
        Path output = directory.resolve("damaged" + runs);
        assertThatThrownBy(() -> run(output, settings, 5)).hasMessage("stopped");
        Path json = new Checkpoints(output, Map.of()).newest().orElseThrow().resolve("trainer_state.json");
        String changed = Files.readString(json).replaceFirst('"' + field + "\" : [^,}\\n]+",
                '"' + field + "\" : " + value);
        assertThat(changed).contains('"' + field + "\" : " + value);
        Files.writeString(json, changed);
        if (message == null) {
            run(output, settings, -1);
        } else {
            assertThatThrownBy(() -> run(output, settings, -1)).isInstanceOf(TrainingException.class)
                    .hasMessageContaining(json + ": \"" + field + "\" is " + value + "; " + message);
        }
    }

    /** transformers' EarlyStoppingCallback: better by more than the threshold, against the best before. */
    @ParameterizedTest
    @CsvSource({"false,0,3 2 2.5 2.5 1,0 0 1 2 0,1", "false,0.5,3 2.8 2.6 2.0,0 1 2 0,2",
            "true,0,1 2 3 2,0 0 0 1,3", "false,0,1 1 1,0 1 2,1", "false,1,3 2,0 1,2"})
    void counting(boolean greater, double threshold, String losses, String waits, double best) {
        Selection selection = new Selection(true, greater, 2, threshold);
        Selection.State state = Selection.State.NONE;
        List<String> waited = new ArrayList<>();
        int step = 0;
        for (String loss : losses.split(" ")) {
            state = selection.after(state, ++step, Double.parseDouble(loss));
            waited.add("" + state.waited());
            assertThat(selection.stops(state)).isEqualTo(state.waited() >= 2);
        }
        assertThat(String.join(" ", waited)).isEqualTo(waits);
        assertThat(state.bestMetric()).isEqualTo(best);
    }

    @Test
    void whatCannotBeSelectedIsRefused() throws IOException {
        assertThatThrownBy(() -> new Selection(true, false, -1, 0))
                .hasMessageContaining("--early-stopping-patience -1");
        assertThatThrownBy(() -> new Selection(true, false, 0, Double.NaN))
                .hasMessageContaining("--early-stopping-threshold NaN");
        Adapter adapter = TinyRun.adapter(lm, "run " + runs++, 4, 0);
        TrainSettings settings = settings(new Selection(true, false, 0, 0), 1, 0);
        assertThatThrownBy(() -> new SftTrainer(lm, adapter, DATA, null, settings, directory.resolve("x")))
                .hasMessageContaining("--load-best-model-at-end needs rows to evaluate on");
        Path output = directory.resolve("lost");
        run(output, settings, -1);
        String best = Files.readString(output.resolve("checkpoint-12/trainer_state.json")).replaceAll(
                "(?s).*best_global_step\" : (\\d+).*", "$1");
        Checkpoints.deleteTree(output.resolve("checkpoint-" + best));
        assertThatThrownBy(() -> run(output, settings, -1)).hasMessageContaining("its checkpoint is not there");
    }
}
