package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.PeftAdapter;
import qlora4j.lora.UnsupportedAdapterException;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.TokenBatch;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** One kind of adapter of a recorded model: before, in and after a training of some steps. */
final class AdapterChecks {
    /** Relative L2 of a parameter's first gradient. */
    static final double GRADIENT = 5e-5;
    /** Losses, and norms relatively: at the first step, where only the arithmetic differs, and later. */
    static final double FIRST_STEP = 2e-5;
    static final double LATER_STEPS = 5e-4;

    private static final String INIT = "_init";
    private static final String TRAINED = "_trained";
    private static final double LEARNING_RATE = 2e-3;
    private static final String GRAD = "grad.";
    private static final String PEFT_PREFIX = "base_model.model.";
    private static final String PEFT_NAME = ".default";

    private final Session session;
    private final String name;
    private final String variant;
    private final Path directory;
    private final Safetensors recorded;
    private final SafetensorsModel base;
    private final DecoderConfig config;
    private final RecordedBatch batch;
    private final Lazy<Runs> nf4;
    private final Lazy<Map<String, Tensor>> gradients = new Lazy<>(this::gradients);
    private final Lazy<Runs.Training> training = new Lazy<>(this::train);

    AdapterChecks(Session session, String model, String variant, Path directory, Safetensors recorded,
            SafetensorsModel base, DecoderConfig config, RecordedBatch batch, Lazy<Runs> nf4) {
        this.session = session;
        this.name = model + "." + variant + ".";
        this.variant = variant;
        this.directory = directory;
        this.recorded = recorded;
        this.base = base;
        this.config = config;
        this.batch = batch;
        this.nf4 = nf4;
    }

    /** The kinds of adapters that a model directory holds. */
    static List<String> variants(Path directory) throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return files.filter(f -> Files.exists(f.resolve(PeftAdapter.CONFIG)))
                    .map(f -> f.getFileName().toString()).filter(n -> n.endsWith(INIT))
                    .map(n -> n.substring(0, n.length() - INIT.length())).sorted().toList();
        }
    }

    /** What an adapter's configuration asks for that this version lacks; empty for none. */
    static String unsupported(Path adapter) {
        try {
            PeftAdapter.open(adapter).close();
            return "";
        } catch (UnsupportedAdapterException e) {
            return e.feature();
        } catch (IOException e) {
            // Damaged, not unsupported: each check says so when it opens it.
            return "";
        }
    }

    /** The kinds of adapters in a directory that this version lacks. */
    static Set<String> unsupportedVariants(Path directory) throws IOException {
        Set<String> lacking = new TreeSet<>();
        for (String variant : variants(directory)) {
            if (!unsupported(directory.resolve(variant + INIT)).isEmpty()) {
                lacking.add(variant);
            }
        }
        return lacking;
    }

    void all(List<String> keys) throws IOException {
        String missing = unsupported(directory.resolve(variant + INIT));
        for (String key : keys) {
            String part = key.substring(variant.length() + 1);
            if (!missing.isEmpty()) {
                session.report().unsupported(name + part, missing);
            } else if (part.startsWith(GRAD)) {
                check(part, () -> gradient(part.substring(GRAD.length()), recorded.tensor(key)));
            } else {
                one(part, recorded.tensor(key));
            }
        }
    }

    private void one(String part, Tensor expected) {
        switch (part) {
            case "logits" -> check(part, () -> adapted(INIT, expected));
            case "trained_logits" -> check(part, () -> adapted(TRAINED, expected));
            case "merged_fp32.logits" -> check(part, () -> merged(expected));
            case "losses" -> steps(session, name + part, () -> training.get().losses(), expected, false, FIRST_STEP,
                    LATER_STEPS);
            case "grad_norms" -> steps(session, name + part, () -> training.get().norms(), expected, true, FIRST_STEP,
                    LATER_STEPS);
            default -> session.report().unsupported(name + part, "a record of an unknown kind");
        }
    }

    /** The names of the checks of numbers by step. */
    static String firstStep(String name) {
        return name + " at step 1";
    }

    static String laterSteps(String name, long steps) {
        return name + " at steps 2 to " + steps;
    }

    /** Two checks of numbers by step: the first step's, and the largest difference of the others. */
    static void steps(Session session, String name, Lazy.Source<Tensor> ours, Tensor expected, boolean relative,
            double first, double later) {
        int n = Math.toIntExact(expected.size());
        session.report().check(firstStep(name), () -> Outcome.atMost(
                largest(ours.get(), expected, relative, 0, 1), first));
        if (n > 1) {
            session.report().check(laterSteps(name, n), () -> Outcome.atMost(
                    largest(ours.get(), expected, relative, 1, n), later));
        }
    }

    private static double largest(Tensor ours, Tensor expected, boolean relative, int from, int to) {
        double worst = 0;
        for (int i = from; i < to; i++) {
            double d = Math.abs(ours.get(i) - expected.get(i));
            worst = Math.max(worst, relative ? d / Math.abs(expected.get(i)) : d);
        }
        return worst;
    }

    private void check(String part, Report.Body body) {
        session.report().check(name + part, body);
    }

    private Adapter load(String stage, boolean trained) throws IOException {
        return Adapter.load(nf4.get().decoder(), 0, directory.resolve(variant + stage), trained);
    }

    private Outcome adapted(String stage, Tensor expected) throws IOException {
        try (Adapter adapter = load(stage, false)) {
            return logits(nf4.get().logits(batch.batch(), adapter.use()), expected);
        }
    }

    private Outcome logits(Tensor ours, Tensor expected) {
        return Outcome.atMost(Compare.largest(ours, batch.real(expected)), ModelChecks.LOGITS);
    }

    private Outcome merged(Tensor expected) throws IOException {
        try (PeftAdapter adapter = PeftAdapter.open(directory.resolve(variant + TRAINED))) {
            Decoder decoder = new Decoder(config, session.backend(), DType.F32,
                    new MergedWeights(base, adapter, session.backend()));
            return logits(new Runs(session, decoder).logits(batch.batch(), Adapters.NONE),
                    expected);
        }
    }

    private Map<String, Tensor> gradients() throws IOException {
        try (Adapter adapter = load(INIT, true)) {
            return nf4.get().gradients(batch.batch(), adapter, batch.labels(0, batch.height()));
        }
    }

    private Outcome gradient(String parameter, Tensor expected) throws IOException {
        String ours = parameter.replace(PEFT_NAME, "");
        Tensor gradient = gradients.get().get(
                ours.startsWith(PEFT_PREFIX) ? ours.substring(PEFT_PREFIX.length()) : ours);
        return gradient == null
                ? Outcome.fail("the adapter has no such parameter")
                : Outcome.atMost(Compare.relativeNorm(gradient, expected), GRADIENT).named("relative L2");
    }

    private Runs.Training train() throws IOException {
        int steps = Math.toIntExact(recorded.info(variant + ".losses").elements());
        TokenBatch all = batch.batch();
        int labels = batch.labels(0, batch.height());
        try (Adapter adapter = load(INIT, true)) {
            return nf4.get().train(adapter, steps, LEARNING_RATE, _ -> new Runs.Step(all, labels));
        }
    }
}
