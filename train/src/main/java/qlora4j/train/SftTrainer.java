package qlora4j.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.ToIntFunction;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.ModelDirectory;
import qlora4j.model.TokenBatch;
import qlora4j.model.Tokenizer;
import qlora4j.optim.Schedule;
import qlora4j.train.data.Batch;
import qlora4j.train.data.Batches;
import qlora4j.train.data.ChatRenderer;
import qlora4j.train.data.Encoder;
import qlora4j.train.data.LossOn;
import qlora4j.train.data.MetricsWriter;
import qlora4j.train.data.PromptTemplate;
import qlora4j.train.data.Row;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.data.TokenizedRow;

/**
 * Supervised fine-tuning of an adapter on rows of text: template, tokens, order, steps, evaluation, metrics, checkpoints.
 *
 * <p>With an output directory it writes {@code metrics.jsonl} and checkpoints as it goes, and the adapter into the
 * directory's root at the end; without one it only trains.
 */
public final class SftTrainer implements AutoCloseable {
    /** Samples an evaluation runs at once. */
    private static final int EVAL_BATCH = 8;
    private static final String METRICS = "metrics.jsonl";

    private final CausalLm lm;
    private final Adapter adapter;
    private final TrainSettings settings;
    private final Batches batches;
    private final TokenizedData train;
    private final List<Batch> evalBatches;
    private final Path output;
    private final Checkpoints checkpoints;
    private final Trainer trainer;
    private Selection.State selected = Selection.State.NONE;

    /** Sees a run as it goes; every method may be left out. */
    public interface Listener {
        /** After a step. */
        default void step(Trainer.StepResult result, int totalSteps, double tokensPerSecond) {
        }

        /** After an evaluation: the mean negative log-likelihood over the held-out label tokens, in nats. */
        default void evaluated(int step, double loss) {
        }

        /** Metrics of a step, as they go into {@code metrics.jsonl}, by {@link MetricsWriter}'s names. */
        default void logged(int step, Map<String, ? extends Number> metrics) throws IOException {
        }

        /** A checkpoint is in place. */
        default void saved(Path checkpoint) {
        }

        /** The run stops before its last step: so many evaluations in a row were not better than the best. */
        default void stoppedEarly(int step, int evaluations) {
        }

        /** The run ends with the adapter of its best evaluation. */
        default void best(Path checkpoint, double metric) {
        }
    }

    /** Turns rows into token ids as {@code settings} and the model's tokenizer want. */
    public static TokenizedData tokenize(ModelDirectory model, List<Row> rows, PromptTemplate template, int maxLength)
            throws IOException {
        TokenizedData data = encoder(model, maxLength).encode(rows, template);
        int longest = data.rows().stream().mapToInt(TokenizedRow::length).max().orElse(0);
        int positions = model.config().maxPositions();
        if (longest > positions) {
            throw new IllegalArgumentException("--max-seq-length " + maxLength + ": a row has " + longest
                    + " tokens and the model was made for at most " + positions + "; give --max-seq-length "
                    + positions);
        }
        return data;
    }

    /** What each step of a run reads. */
    public static Batches batches(TokenizedData train, TrainSettings settings) {
        return new Batches(train, settings.perDeviceBatch(), settings.accumulation(), settings.seed(),
                settings.groupByLength());
    }

    /** What makes token ids of examples for this model. */
    public static Encoder encoder(ModelDirectory model, int maxLength) throws IOException {
        return new Encoder(new ModelText(model.tokenizer()), model.trainingEos(), maxLength);
    }

    /** The prompt template called {@code name}, or a Jinja file, for this model; null: by the rows' own form. */
    public static PromptTemplate template(ModelDirectory model, String name) throws IOException {
        return template(model, name, LossOn.COMPLETION);
    }

    /** The same, and which tokens are learned. */
    public static PromptTemplate template(ModelDirectory model, String name, LossOn loss) throws IOException {
        Tokenizer tokenizer = model.tokenizer();
        ChatRenderer chat = tokenizer.chatTemplates().isEmpty() ? null
                : new ModelText.Chats(tokenizer, model.generation().eosIds().isEmpty() ? null
                        : tokenizer.decode(new int[]{model.trainingEos()}, false));
        return name == null ? PromptTemplate.byForm(chat, loss) : PromptTemplate.of(name, chat, loss);
    }

    /**
     * A run over tokenized data.
     *
     * @param adapter a trainable adapter of {@code lm}
     * @param eval held-out data, or null
     * @param output where metrics, checkpoints and the adapter go, or null
     */
    public SftTrainer(CausalLm lm, Adapter adapter, TokenizedData train, TokenizedData eval, TrainSettings settings,
            Path output) throws IOException {
        if (train.rows().isEmpty()) {
            throw new IllegalArgumentException("no row of the training data has a label: " + train.report().summary());
        }
        this.lm = lm;
        this.adapter = adapter;
        this.settings = settings;
        this.train = train;
        this.output = output;
        batches = batches(train, settings);
        evalBatches = eval == null || eval.rows().isEmpty() ? List.of() : Batches.inOrder(eval.rows(), EVAL_BATCH);
        if (settings.selection().isOn() && (evalBatches.isEmpty() || settings.evalSteps() == 0 || output == null)) {
            throw new IllegalArgumentException((settings.selection().loadBest() ? "--load-best-model-at-end"
                    : "--early-stopping-patience") + " needs rows to evaluate on (--eval-data or --eval-split),"
                    + " evaluations as the run goes (--eval-steps), and an output directory");
        }
        checkpoints = output == null ? null : new Checkpoints(output, identity());
        if (output != null) {
            Files.createDirectories(output);
        }
        Path spill = output == null ? Path.of(System.getProperty("java.io.tmpdir")) : output;
        trainer = new Trainer(lm.decoder(), adapter.parameters(), adapter.slot(), adapter.config().dropout(), settings,
                settings.totalSteps(batches.stepsPerEpoch()), largest(train, settings.perDeviceBatch()), spill);
    }

    private Map<String, String> identity() {
        Map<String, String> m = new LinkedHashMap<>(settings.identity());
        if (settings.schedule() != Schedule.CONSTANT || settings.warmupRatio() > 0) {
            m.put("--max-steps, --num-train-epochs", settings.totalSteps(batches.stepsPerEpoch()) + " steps");
        }
        LoraConfig lora = adapter.config();
        m.put("--lora-r, --lora-alpha, --lora-dropout", lora.rank() + ", " + lora.alpha() + ", " + lora.dropout());
        m.put("--rank-pattern, --alpha-pattern", lora.patterns().rank() + ", " + lora.patterns().alpha());
        m.put("--use-rslora, --use-dora", lora.rsLora() + ", " + lora.dora());
        m.put("--bias, --modules-to-save", lora.bias() + ", " + lora.modulesToSave());
        m.put("--add-special-tokens, --trainable-token-indices", lora.tokens().toString());
        m.put("--init-lora-weights", lora.init().toString());
        m.put("--target-modules", Integer.toHexString(adapter.modules().hashCode()));
        m.put("compute dtype", lm.decoder().type().name());
        m.put("model", shape());
        int hash = 1;
        for (TokenizedRow row : train.rows()) {
            hash = 31 * hash + Arrays.hashCode(row.ids()) + Arrays.hashCode(row.runs());
        }
        m.put("--packing", "" + (train.packing() != null));
        m.put("--data (tokens)", Integer.toHexString(hash));
        return m;
    }

    private String shape() {
        var c = lm.decoder().config();
        return c.layers() + " layers of " + c.hidden() + ", vocabulary " + c.vocab();
    }

    /**
     * A batch as large as the largest micro-batch that these rows, packed or not, can make: in tokens, in samples, and
     * in the longest sample's length.
     */
    public static TokenBatch largest(TokenizedData data, int perDevice) {
        if (data.packing() == null) {
            return largest(data.rows(), perDevice);
        }
        int longest = data.rows().stream().mapToInt(TokenizedRow::length).max().orElseThrow();
        int samples = most(data, perDevice, List::size);
        int tokens = most(data, perDevice, s -> s.stream().mapToInt(row -> data.rows().get(row).length()).sum());
        int[][] sequences = new int[samples][];
        int left = Math.max(tokens, longest + samples - 1);
        for (int s = 0; s < samples; s++) {
            sequences[s] = new int[Math.min(longest, left - (samples - 1 - s))];
            left -= sequences[s].length;
        }
        TokenBatch b = TokenBatch.of(sequences);
        return b.withLabels(new int[b.rows()]);
    }

    private static int most(TokenizedData data, int perDevice, ToIntFunction<List<Integer>> size) {
        return data.sequences().stream().map(size::applyAsInt).sorted(Comparator.reverseOrder()).limit(perDevice)
                .mapToInt(n -> n).sum();
    }

    /** A batch as large as the largest micro-batch that rows of these lengths can make. */
    public static TokenBatch largest(List<TokenizedRow> rows, int perDevice) {
        int[][] longest = rows.stream().map(TokenizedRow::length).sorted(Comparator.reverseOrder())
                .limit(perDevice).map(n -> new int[n]).toArray(int[][]::new);
        TokenBatch b = TokenBatch.of(longest);
        return b.withLabels(new int[b.rows()]);
    }

    /** The batch with the most tokens of an evaluation of these rows. */
    public static TokenBatch largestEvaluation(List<TokenizedRow> rows) {
        return Trainer.tokens(Batches.inOrder(rows, EVAL_BATCH).stream()
                .max(Comparator.comparingInt(b -> b.tokens().length)).orElseThrow());
    }

    public Trainer trainer() {
        return trainer;
    }

    /** The newest checkpoint in the output directory, if any. */
    public Optional<Path> newestCheckpoint() throws IOException {
        return checkpoints == null ? Optional.empty() : checkpoints.newest();
    }

    /** Goes on from the newest checkpoint; returns it, or empty when there is none and the run starts anew. */
    public Optional<Path> resume() throws IOException {
        Optional<Path> newest = newestCheckpoint();
        if (checkpoints != null) {
            checkpoints.removeUnfinished();
        }
        if (newest.isPresent()) {
            selected = checkpoints.restore(newest.get(), trainer);
            requireBest();
        }
        return newest;
    }

    /** A run that is to end with its best adapter cannot go on without that one's checkpoint. */
    private void requireBest() {
        if (settings.selection().loadBest() && selected.bestStep() > 0
                && !Files.isDirectory(checkpoints.of(selected.bestStep()))) {
            throw new TrainingException(output + ": the best evaluation so far was at step " + selected.bestStep()
                    + ", and its checkpoint is not there, which --load-best-model-at-end needs: resume without that"
                    + " flag, or start anew with it");
        }
    }

    /** The mean negative log-likelihood over the held-out label tokens, in nats; NaN without held-out data. */
    public double evaluate() {
        return evalBatches.isEmpty() ? Double.NaN : trainer.evaluate(evalBatches);
    }

    /** Trains to the end and, with an output directory, writes the adapter into its root. */
    public void run(Listener listener) throws IOException {
        try (MetricsWriter metrics = metrics()) {
            if (trainer.step() == 0) {
                evaluate(listener, metrics);
            }
            double lossSum = 0;
            int logged = 0;
            long tokens = 0;
            long since = System.nanoTime();
            while (trainer.step() < trainer.totalSteps() && !settings.selection().stops(selected)) {
                long start = System.nanoTime();
                Trainer.StepResult r = trainer.step(batches.at(trainer.step()));
                double seconds = (System.nanoTime() - start) / 1e9;
                lossSum += r.loss();
                tokens += r.tokens();
                logged++;
                listener.step(r, trainer.totalSteps(), r.tokens() / seconds);
                boolean last = r.step() == trainer.totalSteps();
                if (metrics != null && (last || r.step() % settings.loggingSteps() == 0)) {
                    log(listener, metrics, r, lossSum / logged, tokens,
                            tokens / ((System.nanoTime() - since) / 1e9));
                    lossSum = 0;
                    logged = 0;
                    tokens = 0;
                    since = System.nanoTime();
                }
                if (last || settings.evalSteps() > 0 && r.step() % settings.evalSteps() == 0) {
                    evaluate(listener, metrics);
                }
                // A new best is saved whatever --save-steps says: the run may end with it.
                boolean best = settings.selection().loadBest() && selected.bestStep() == r.step();
                if (checkpoints != null
                        && (best || settings.saveSteps() > 0 && r.step() % settings.saveSteps() == 0)) {
                    metrics.flush();
                    listener.saved(checkpoints.save(trainer, this::saveAdapter, settings.saveLimit(), selected));
                }
            }
            if (trainer.step() < trainer.totalSteps()) {
                listener.stoppedEarly(trainer.step(), selected.waited());
            }
        }
        if (settings.selection().loadBest() && selected.bestStep() > 0) {
            Path best = checkpoints.of(selected.bestStep());
            checkpoints.loadParameters(best, trainer);
            adapter.refresh();
            listener.best(best, selected.bestMetric());
        }
        if (output != null) {
            saveAdapter(output);
        }
    }

    /** The adapter, and the tokenizer that goes with tokens that were added. */
    private void saveAdapter(Path directory) throws IOException {
        if (lm.directory().added().isPresent()) {
            lm.directory().added().get().save(directory);
        }
        adapter.save(directory);
    }

    private MetricsWriter metrics() throws IOException {
        if (output == null) {
            return null;
        }
        Path file = output.resolve(METRICS);
        return trainer.step() == 0 ? MetricsWriter.begin(file) : MetricsWriter.resume(file, trainer.step());
    }

    private void log(Listener listener, MetricsWriter metrics, Trainer.StepResult r, double loss, long tokens,
            double rate) throws IOException {
        Map<String, Number> m = new LinkedHashMap<>();
        m.put(MetricsWriter.EPOCH, batches.epochsAfter(r.step()));
        m.put(MetricsWriter.LOSS, loss);
        m.put(MetricsWriter.GRAD_NORM, r.gradNorm());
        m.put(MetricsWriter.LEARNING_RATE, r.learningRate());
        m.put(MetricsWriter.TOKENS, tokens);
        m.put(MetricsWriter.TOKENS_PER_SECOND, rate);
        metrics.write(r.step(), m);
        listener.logged(r.step(), m);
    }

    private void evaluate(Listener listener, MetricsWriter metrics) throws IOException {
        if (evalBatches.isEmpty()) {
            return;
        }
        double loss = evaluate();
        listener.evaluated(trainer.step(), loss);
        if (trainer.step() > 0 && settings.selection().isOn()) {
            selected = settings.selection().after(selected, trainer.step(), loss);
        }
        if (metrics != null) {
            Map<String, Double> m = Map.of(MetricsWriter.EVAL_LOSS, loss);
            metrics.write(trainer.step(), m);
            listener.logged(trainer.step(), m);
        }
    }

    @Override
    public void close() {
        trainer.close();
    }
}
