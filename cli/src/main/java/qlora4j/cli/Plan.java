package qlora4j.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.bench.Shapes;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.LoraConfig;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.model.ModelTensors;
import qlora4j.model.TokenBatch;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;
import qlora4j.train.BudgetAdvice;
import qlora4j.train.MemoryPlan;
import qlora4j.train.SftTrainer;
import qlora4j.train.TrainSettings;
import qlora4j.train.data.TokenizedData;

/** {@code qlora plan}: the memory a fine-tuning job will need. */
@Command(name = "plan", sortOptions = false, description = {
        "Says how many bytes a fine-tuning job will hold, by use, before anything is loaded: for this machine's CPU and"
                + " for a GPU, which need not be there. Takes finetune's flags; those that do not change memory are passed"
                + " over. Of a model only config.json and the headers of the weights are read, and of one on the hub that"
                + " is not in the cache only its configuration is downloaded.",
        "Without --data every row counts as --max-seq-length tokens, all of them predicted. With --budget it says what to"
                + " change so that the job fits, and ends with exit code 1 where it does not fit as it is."})
final class Plan implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, or a model of the hub.")
    private Path model;

    @Option(names = "--shape", paramLabel = "NAME", completionCandidates = Bench.ShapeNames.class,
            description = "Instead: the shape of a published model: ${COMPLETION-CANDIDATES}.")
    private String shape;

    @Option(names = "--backend", paramLabel = "NAME", description = "cpu, scalar or cuda (default: cpu and cuda).")
    private String backend;

    @Option(names = "--budget", paramLabel = "BYTES", description = "What the job may hold, such as 8GB or 512MiB.")
    private String budget;

    @Option(names = "--json", paramLabel = "FILE", description = "Write the figures as JSON too.")
    private Path json;

    @Mixin
    private DataOptions data;

    @Mixin
    private TrainOptions train;

    @Mixin
    private ComputeOptions compute;

    /** Lets {@code plan} take, and pass over, the flags of another command that it has none of its own for. */
    static void acceptFlagsOf(CommandLine line, String other) {
        CommandSpec plan = line.getSubcommands().get("plan").getCommandSpec();
        for (OptionSpec option : line.getSubcommands().get(other).getCommandSpec().options()) {
            if (java.util.Arrays.stream(option.names()).noneMatch(n -> plan.optionsMap().containsKey(n))) {
                plan.addOption(OptionSpec.builder(option.names()).arity(option.arity().toString()).hidden(true)
                        .fallbackValue(option.fallbackValue()).type(String[].class).build());
            }
        }
    }

    /** What is planned: the job, and how it is called. */
    private record Subject(String name, MemoryPlan.Job job) {
    }

    @Override
    public Integer call() throws IOException {
        if ((model == null) == (shape == null)) {
            throw new IllegalArgumentException("give --model DIR, or --shape NAME for a published model's shape");
        }
        Long most = budget == null ? null : Long.valueOf(ByteSize.parse("--budget", budget));
        TrainSettings settings = train.settings();
        DecoderLoader loader = new DecoderLoader(QuantConfig.QLORA, compute.dtype());
        if (shape != null) {
            if (train.tokens().given()) {
                throw new IllegalArgumentException("--add-special-tokens and --trainable-token-indices need the"
                        + " tokenizer of a --model");
            }
            if (data.given()) {
                throw new IllegalArgumentException(
                        "--data needs the tokenizer of a --model; leave it out, and rows count"
                                + " as --max-seq-length tokens");
            }
            return plan(new Subject(shape, full(Shapes.named(shape), loader, null, settings)), most);
        }
        Path directory = HubModels.configuration(model, spec.commandLine().getErr());
        DecoderConfig config = DecoderConfig.read(directory);
        try (SafetensorsModel weights = weights(directory)) {
            MemoryPlan.Job job = full(config, loader, weights, settings);
            boolean files = data.given() || train.tokens().given();
            return plan(new Subject(model.toString(), files ? withFiles(directory, job) : job), most);
        }
    }

    private static SafetensorsModel weights(Path directory) throws IOException {
        for (String name : List.of("model.safetensors", "model.safetensors.index.json")) {
            if (Files.exists(directory.resolve(name))) {
                return SafetensorsModel.open(directory);
            }
        }
        return null;
    }

    /** The job whose rows are all as long as they may be. */
    private MemoryPlan.Job full(DecoderConfig config, DecoderLoader loader, SafetensorsModel weights,
            TrainSettings settings) {
        int length = Math.min(settings.maxLength(), config.maxPositions());
        return new MemoryPlan.Job(config, loader, weights, train.lora("model"), settings,
                TokenBatch.largest(settings.perDeviceBatch(), length), null);
    }

    /** The job with its added tokens and, where there are data, the rows' own lengths: what {@code finetune} predicts. */
    private MemoryPlan.Job withFiles(Path path, MemoryPlan.Job job) throws IOException {
        TrainSettings settings = job.settings();
        try (ModelDirectory directory = ModelDirectory.open(path)) {
            LoraConfig lora = train.tokens().in(directory, job.lora());
            DecoderLoader loader = job.loader().withRoomFor(lora.tokens());
            if (!data.given()) {
                return job.with(lora).with(loader);
            }
            DataOptions.Prepared prepared =
                    data.prepare(directory, settings.maxLength(), train.seed(), spec.commandLine().getOut());
            TokenizedData held = prepared.held();
            return new MemoryPlan.Job(job.config(), loader, job.checkpoint(), lora, settings,
                    SftTrainer.largest(prepared.train(), settings.perDeviceBatch()),
                    held == null ? null : SftTrainer.largestEvaluation(held.rows()));
        }
    }

    private List<String> backends() {
        List<String> wanted = new ArrayList<>();
        for (String name : backend == null || backend.equals("auto") ? List.of(Backend.CPU, Backend.CUDA)
                : List.of(backend.toLowerCase(Locale.ROOT))) {
            if (backend != null || Backends.names().contains(name)) {
                wanted.add(name);
            }
        }
        return wanted;
    }

    private int plan(Subject subject, Long most) throws IOException {
        Map<String, MemoryPlan> plans = new LinkedHashMap<>();
        for (String name : backends()) {
            plans.put(name, MemoryPlan.predict(Backends.footprint(name), subject.job));
        }
        PrintWriter out = spec.commandLine().getOut();
        MemoryPlan.Job job = subject.job;
        long parameters = ModelTensors.expected(job.config()).values().stream().mapToLong(Tensor::elements).sum();
        out.printf(Locale.ROOT, "%s: %,d parameters; micro-batches of up to %d tokens in %d rows, computed in %s%n",
                subject.name, parameters, job.largest().rows(), job.largest().sequences(), job.loader().type());
        ObjectNode root = JSON.createObjectNode().put("model", subject.name).put("parameters", parameters)
                .put("rows", job.largest().sequences()).put("tokens", job.largest().rows());
        table(out, plans, root.putObject("bytes"));
        boolean fits = true;
        if (most != null) {
            ObjectNode advice = root.putObject("budget").put("bytes", most);
            for (String name : plans.keySet()) {
                fits &= advise(name, plans.get(name), job, most, advice.putObject(name));
            }
        }
        if (json != null) {
            Files.writeString(json, JSON.writeValueAsString(root) + "\n");
        }
        return fits ? 0 : 1;
    }

    private static void table(PrintWriter out, Map<String, MemoryPlan> plans, ObjectNode json) {
        plans.keySet().forEach(json::putObject);
        StringBuilder head = new StringBuilder(String.format("%-16s", "MB"));
        plans.keySet().forEach(name -> head.append(String.format("%12s", name)));
        out.println(head);
        for (MemoryUse use : MemoryUse.values()) {
            if (plans.values().stream().anyMatch(p -> p.bytes().get(use) > 0)) {
                row(out, MemoryPlan.name(use), plans, p -> p.bytes().get(use));
            }
            plans.forEach((name, p) -> ((ObjectNode) json.get(name)).put(use.name().toLowerCase(Locale.ROOT),
                    p.bytes().get(use)));
        }
        row(out, "together", plans, MemoryPlan::total);
        if (plans.values().stream().anyMatch(p -> p.pagedOut() > 0)) {
            row(out, "paged out", plans, MemoryPlan::pagedOut);
        }
        plans.forEach((name, p) -> ((ObjectNode) json.get(name)).put("together", p.total()).put("paged_out",
                p.pagedOut()));
    }

    private static void row(PrintWriter out, String title, Map<String, MemoryPlan> plans,
            java.util.function.ToLongFunction<MemoryPlan> value) {
        StringBuilder line = new StringBuilder(String.format("%-16s", title));
        plans.values().forEach(p -> line.append(String.format(Locale.ROOT, "%,12.1f", value.applyAsLong(p) / MB)));
        out.println(line);
    }

    private boolean advise(String name, MemoryPlan plan, MemoryPlan.Job job, long most, ObjectNode json)
            throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        boolean fits = plan.total() <= most;
        json.put("fits", fits);
        if (fits) {
            out.printf(Locale.ROOT, "%s: fits %s, %,.1f MB are left%n", name, budget, (most - plan.total()) / MB);
            return true;
        }
        BudgetAdvice advice = BudgetAdvice.of(Backends.footprint(name), job, most);
        out.printf(Locale.ROOT, "%s: does not fit %s, %,.1f MB too many; %s%n", name, budget,
                (plan.total() - most) / MB, advice.fits() ? "it does with"
                        : advice.changes().isEmpty() ? "and there is nothing to change: a smaller model, or more memory"
                                : "nor with all of this: a smaller model, or more memory");
        var list = json.put("fits_with_changes", advice.fits()).putArray("changes");
        for (BudgetAdvice.Change c : advice.changes()) {
            out.printf(Locale.ROOT, "  %-64s %,12.1f MB  (%s)%n", c.flags(), c.total() / MB, c.price());
            list.addObject().put("flags", c.flags()).put("bytes", c.total()).put("price", c.price());
        }
        return false;
    }
}
