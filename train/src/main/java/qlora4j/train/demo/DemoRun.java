package qlora4j.train.demo;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Stream;
import qlora4j.blockwise.Blockwise;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;
import qlora4j.model.Tokenizer;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Residency;
import qlora4j.optim.Schedule;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;
import qlora4j.train.MemoryPlan;
import qlora4j.train.SftTrainer;
import qlora4j.train.TrainSettings;
import qlora4j.train.data.Row;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.report.RunRecord;

/**
 * The main job on the bundled model, in about a minute: quantize to NF4, see that the base cannot write the instruction
 * for a response, fine-tune an adapter on reversed pairs, see that it can, save, load again, and swap two adapters.
 */
public final class DemoRun {
    /** Held-out pairs that are counted, the families in turn. */
    public static final int HELD_OUT = 95;
    /** The share of held-out instructions that the adapter must write exactly. */
    public static final double GOAL = 0.8;
    private static final String REVERSED = "reversed";
    private static final String PIRATE = "pirate";
    private static final int SHOWN = 3;
    private static final long SEED = 7;
    private static final int BATCH = 32;
    private static final int REVERSED_STEPS = 150;
    /** Pairs that the main adapter is trained on. */
    static final int REVERSED_PAIRS = REVERSED_STEPS * BATCH;
    private static final int PIRATE_STEPS = 80;
    private static final double REVERSED_RATE = 5e-3;
    private static final double PIRATE_RATE = 2e-3;
    private static final int MAX_LENGTH = 256;
    private static final int ANSWER = 48;
    private static final List<String> MODEL_FILES = List.of("config.json", "generation_config.json",
            "model.safetensors", "tokenizer.json", "tokenizer_config.json");

    private final Backend backend;
    private final Path output;
    private final Consumer<String> say;
    private final Progress progress;

    /** The listener of one training run; it is closed when the run has ended. */
    public interface Run extends SftTrainer.Listener, AutoCloseable {
        @Override
        void close();
    }

    /** Opens the listener of a training run. */
    public interface Progress {
        Run start(String adapter, int steps);
    }

    /**
     * What the demo counted.
     *
     * @param main how the main adapter's training went
     */
    public record Result(int heldOut, int exactBefore, int exactAfter, int exactReloaded, Training main) {
        /** Whether the adapter reached the goal and survived saving and loading. */
        public boolean reachedGoal() {
            return exactAfter >= GOAL * heldOut && exactReloaded == exactAfter;
        }
    }

    /**
     * A training run, for a report.
     *
     * @param directory where its metrics and the adapter are
     * @param parameters how many are trained, in a line
     * @param peak the most bytes held at once
     * @param samples the first held-out pairs, before and after
     */
    public record Training(Path directory, String parameters, double seconds, MemoryPlan predicted, MemoryPlan measured,
            long peak, List<RunRecord.Sample> samples) {
        Training with(List<RunRecord.Sample> texts) {
            return new Training(directory, parameters, seconds, predicted, measured, peak, texts);
        }
    }

    /**
     * @param output where the model and the adapters are written
     * @param say sees each line
     * @param progress gives each training run its listener
     */
    public DemoRun(Backend backend, Path output, Consumer<String> say,
            Progress progress) {
        this.backend = backend;
        this.output = output;
        this.say = say;
        this.progress = progress;
    }

    /** Runs it. */
    public Result run() throws IOException {
        Path model = output.resolve("model");
        copyModel(model);
        List<DemoCorpus.Pair> heldOut = DemoCorpus.heldOut(SEED, HELD_OUT);
        int before;
        int after;
        Training main;
        List<String> wroteBefore = new ArrayList<>();
        List<String> wroteAfter = new ArrayList<>();
        try (CausalLm lm = CausalLm.load(model, backend, DecoderLoader.QLORA)) {
            quantization(lm, model);
            say.accept("");
            say.accept("The model was pre-trained to answer. Given only an answer, can it write the instruction?");
            before = exact(lm, CausalLm.BASE, heldOut, wroteBefore);
            say.accept("");
            say.accept("Fine-tuning an adapter on reversed pairs (the Uno reverse card) ...");
            main = train(lm, REVERSED, DemoCorpus.reversedTrain(SEED), REVERSED_STEPS, REVERSED_RATE, true);
            after = exact(lm, REVERSED, heldOut, wroteAfter);
            say.accept("");
            say.accept("Fine-tuning a second adapter, which answers like a pirate ...");
            train(lm, PIRATE, DemoCorpus.pirateTrain(SEED), PIRATE_STEPS, PIRATE_RATE, false);
        }
        say.accept("");
        say.accept("Loading the 4-bit model again, with both adapters, and swapping them:");
        int reloaded = reload(model, heldOut);
        say.accept("");
        say.accept("Files: " + output.toAbsolutePath().normalize() + " (model, adapter-" + REVERSED + ", adapter-"
                + PIRATE + "); the adapters load in PEFT");
        return new Result(heldOut.size(), before, after, reloaded,
                main.with(samples(heldOut, wroteBefore, wroteAfter)));
    }

    private static List<RunRecord.Sample> samples(List<DemoCorpus.Pair> heldOut, List<String> before,
            List<String> after) {
        List<RunRecord.Sample> samples = new ArrayList<>();
        for (int i = 0; i < before.size(); i++) {
            DemoCorpus.Pair pair = heldOut.get(i);
            samples.add(new RunRecord.Sample(reversedPrompt(pair.response()), pair.instruction(), before.get(i),
                    after.get(i)));
        }
        return samples;
    }

    /** Writes the bundled model's files to a directory. */
    static void copyModel(Path model) throws IOException {
        Files.createDirectories(model);
        for (String name : MODEL_FILES) {
            try (InputStream in = DemoRun.class.getResourceAsStream("model/" + name)) {
                if (in == null) {
                    throw new IOException("the bundled model's " + name + " is not in this installation");
                }
                Files.copy(in, model.resolve(name), StandardCopyOption.REPLACE_EXISTING);
            }
        }
    }

    private void quantization(CausalLm lm, Path model) throws IOException {
        double error = 0;
        double size = 0;
        long count = 0;
        try (var view = SafetensorsModel.open(model);
                var stream = backend.openStream()) {
            for (var linear : lm.decoder().linears().entrySet()) {
                LinearWeight.Quantized w = (LinearWeight.Quantized) linear.getValue().weight();
                Tensor device = stream.take(DType.F32, w.outFeatures(), w.inFeatures());
                Blockwise.dequantize(stream, w.w(), device);
                Tensor host = Tensor.zeros(DType.F32, device.shape());
                backend.download(device, host);
                stream.release(device);
                Tensor original = view.tensor(linear.getKey() + ".weight");
                for (long i = 0; i < host.size(); i++) {
                    error += Math.abs(host.get(i) - original.get(i));
                    size += Math.abs(original.get(i));
                }
                count += host.size();
            }
        }
        say.accept(String.format(Locale.ROOT,
                "Quantized %d weights of the linear layers to NF4 with double quantization: %.3f bits a parameter"
                        + " (bfloat16: 16), mean error %.1f %% of the mean weight",
                count, lm.linearBitsPerParameter(), 100 * error / size));
    }

    private Training train(CausalLm lm, String name, Stream<DemoCorpus.Pair> pairs, int steps, double rate,
            boolean reversed) throws IOException {
        List<DemoCorpus.Pair> chosen = pairs.limit((long) steps * BATCH).toList();
        LoraConfig lora = new LoraConfig(16, 16, 0, List.of(LoraConfig.ALL_LINEAR), "model", SEED);
        Adapter adapter = lm.attach(name, lora);
        String parameters = lm.report(adapter).line();
        say.accept(parameters);
        TrainSettings settings = new TrainSettings(steps, 1, BATCH, 1, MAX_LENGTH, rate,
                Schedule.named("cosine"), 0.05, 1, AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES), Residency.ALL,
                false, 10, 0, 0, 0, SEED);
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < chosen.size(); i++) {
            rows.add(row("generated pair " + (i + 1), chosen.get(i), reversed));
        }
        TokenizedData data = SftTrainer.tokenize(lm.directory(), rows,
                SftTrainer.template(lm.directory(), reversed ? "alpaca-reversed" : null), MAX_LENGTH);
        MemoryPlan predicted = MemoryPlan.predict(backend, new MemoryPlan.Job(lm.directory().config(),
                DecoderLoader.QLORA, null, lora, settings, SftTrainer.largest(data, BATCH), null));
        Path directory = output.resolve("adapter-" + name);
        long start = System.nanoTime();
        try (SftTrainer trainer = new SftTrainer(lm, adapter, data, null, settings, directory)) {
            try (Run run = progress.start(name, steps)) {
                trainer.run(run);
            }
            return new Training(directory, parameters, (System.nanoTime() - start) / 1e9, predicted,
                    MemoryPlan.held(backend.ledger()), backend.ledger().peak(), List.of());
        }
    }

    private static Row row(String where, DemoCorpus.Pair pair, boolean reversed) {
        if (reversed) {
            return new Row.Alpaca(where, pair.instruction(), "", pair.response(), Map.of());
        }
        return new Row.PromptCompletion(where, DemoCorpus.text(new DemoCorpus.Pair(pair.instruction(), "")),
                pair.response(), Map.of());
    }

    /**
     * Counts the held-out instructions that are written exactly, and shows the first few.
     *
     * @param shown takes those; null: none are shown
     */
    private int exact(CausalLm lm, String adapter, List<DemoCorpus.Pair> heldOut, List<String> shown)
            throws IOException {
        int exact = 0;
        try (Generator generator = new Generator(lm.decoder(), MAX_LENGTH)) {
            for (int i = 0; i < heldOut.size(); i++) {
                DemoCorpus.Pair pair = heldOut.get(i);
                String wrote = write(lm, generator, adapter, reversedPrompt(pair.response()));
                boolean right = wrote.equals(pair.instruction());
                exact += right ? 1 : 0;
                if (shown != null && i < SHOWN) {
                    shown.add(wrote);
                    say.accept("  response:    " + pair.response());
                    say.accept("  instruction: " + oneLine(wrote) + (right ? "   (exact)"
                            : "   (wanted: "
                                    + pair.instruction() + ")"));
                }
            }
        }
        say.accept(String.format(Locale.ROOT, "Exact match on %d held-out pairs (%s): %d, %.1f %%", heldOut.size(),
                adapter, exact, 100.0 * exact / heldOut.size()));
        return exact;
    }

    private static String oneLine(String text) {
        String line = text.replace("\n", "\\n");
        return line.length() > 100 ? line.substring(0, 100) + "..." : line;
    }

    private static String reversedPrompt(String response) {
        return "### Response:\n" + response + "\n\n### Instruction:\n";
    }

    private static String write(CausalLm lm, Generator generator, String adapter, String prompt) throws IOException {
        Tokenizer tokenizer = lm.tokenizer();
        int[] ids = generator.generate(tokenizer.encode(prompt, false), ANSWER, SamplingConfig.GREEDY,
                lm.use(adapter), lm.eosIds(), null);
        int end = ids.length > 0 && lm.eosIds().contains(ids[ids.length - 1]) ? ids.length - 1 : ids.length;
        return tokenizer.decode(Arrays.copyOf(ids, end), false);
    }

    private int reload(Path model, List<DemoCorpus.Pair> heldOut) throws IOException {
        try (CausalLm lm = CausalLm.load(model, backend, DecoderLoader.QLORA)) {
            lm.load(REVERSED, output.resolve("adapter-" + REVERSED));
            lm.load(PIRATE, output.resolve("adapter-" + PIRATE));
            try (Generator generator = new Generator(lm.decoder(), MAX_LENGTH)) {
                DemoCorpus.Pair pair = heldOut.get(HELD_OUT / 2);
                String question = DemoCorpus.text(new DemoCorpus.Pair(pair.instruction(), ""));
                say.accept("  prompt: " + pair.instruction());
                List<String> names = new ArrayList<>(List.of(CausalLm.BASE, PIRATE));
                for (String name : names) {
                    say.accept("  " + name + ": " + oneLine(write(lm, generator, name, question)));
                }
                say.accept("  prompt: (reversed) " + pair.response());
                say.accept("  " + REVERSED + ": " + oneLine(write(lm, generator, REVERSED,
                        reversedPrompt(pair.response()))));
            }
            return exact(lm, REVERSED, heldOut, null);
        }
    }
}
