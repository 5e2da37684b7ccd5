package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.bench.BenchRun;
import qlora4j.bench.BenchRun.Target;
import qlora4j.bench.BenchSettings;
import qlora4j.bench.Results;
import qlora4j.bench.Shapes;
import qlora4j.blockwise.QuantConfig;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;

/** {@code qlora bench}: how fast this machine is, beside what it could do. */
@Command(name = "bench", sortOptions = false, description = {
        "Times kernels, a training step and generation on this machine, each beside a ceiling that is measured first: the"
                + " rate of copying or reading memory, or of multiply-adds. Without --model, weights are random, so that a"
                + " model's speed can be seen before it is downloaded."})
final class Bench implements Callable<Integer> {
    private static final Pattern MATRIX = Pattern.compile("(\\d{1,8})\\s*[xX]\\s*(\\d{1,8})");
    private static final String SHOWN = " (default: ${DEFAULT-VALUE}).";
    private static final double SECONDS = 1;
    /** So that all of them together take less than a minute. */
    private static final double SECONDS_OF_ALL = 0.5;
    private static final String USUAL_MODEL = "smollm2-135m";
    private static final String USUAL_KERNELS = "mistral-7b";

    @Spec
    private CommandSpec spec;

    @Parameters(arity = "0..*", paramLabel = "TARGET",
            description = "ceilings, kernels, train, decode (default: all of them).")
    private List<String> targets = List.of();

    @Option(names = "--shape", paramLabel = "NAME",
            description = "The model's shape: ${COMPLETION-CANDIDATES} (default: " + USUAL_MODEL + ", and the kernels'"
                    + " matrix is one of " + USUAL_KERNELS + "; on the scalar backend " + Shapes.TINY + ").",
            completionCandidates = ShapeNames.class)
    private String shape;

    @Option(names = "--model", paramLabel = "DIR|OWNER/NAME",
            description = "Instead: a Hugging Face model directory, or a model of the hub.")
    private Path model;

    @Option(names = "--matrix", paramLabel = "OUTxIN",
            description = "The kernels' matrix, such as 4096x14336 (default: the shape's gate projection).")
    private String matrix;

    @Option(names = "--per-device-train-batch-size", paramLabel = "N", defaultValue = "1",
            description = "Rows of a training step" + SHOWN)
    private int batch;

    @Option(names = "--max-seq-length", paramLabel = "TOKENS", defaultValue = "256",
            description = "Tokens of each row" + SHOWN)
    private int length;

    @Option(names = "--lora-r", paramLabel = "R", defaultValue = "64", description = "Rank of the adapter" + SHOWN)
    private int rank;

    @Option(names = "--lora-dropout", paramLabel = "P", defaultValue = "0",
            description = "On the adapter's inputs" + SHOWN)
    private double dropout;

    @Option(names = "--gradient-checkpointing", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Compute activations again in the backward pass.")
    private boolean checkpointing;

    @Option(names = "--optim-resident", paramLabel = "BYTES|PERCENT", defaultValue = "100%",
            description = "How much of the optimizer's state stays on the device, such as 2GiB or 50%%" + SHOWN)
    private String resident;

    @Option(names = "--prefill", paramLabel = "TOKENS", defaultValue = "512",
            description = "Tokens of the prompt whose processing is timed" + SHOWN)
    private int prefill;

    @Option(names = "--prompt-length", paramLabel = "TOKENS", defaultValue = "64",
            description = "Tokens of the prompt before decoding" + SHOWN)
    private int prompt;

    @Option(names = "--max-new-tokens", paramLabel = "TOKENS", defaultValue = "128",
            description = "Tokens to decode, fewer where they take too long" + SHOWN)
    private int newTokens;

    @Option(names = "--seconds", paramLabel = "S",
            description = "About how long a figure may take; three samples are taken in any case (default: "
                    + SECONDS + ", or " + SECONDS_OF_ALL + " where all targets are measured).")
    private Double seconds;

    @Option(names = "--json", paramLabel = "FILE", description = "Write the figures as JSON too.")
    private Path json;

    @Mixin
    private OffloadOptions offload;

    @Mixin
    private BackendOptions backend;

    @Mixin
    private ComputeOptions compute;

    /** The names that {@code --help} lists. */
    static final class ShapeNames implements Iterable<String> {
        @Override
        public java.util.Iterator<String> iterator() {
            return Shapes.names().iterator();
        }
    }

    @Override
    public Integer call() throws IOException {
        Set<Target> wanted = targets();
        if (shape != null && model != null) {
            throw new IllegalArgumentException("--shape and --model contradict each other: give one of them");
        }
        model = model == null ? null : HubModels.directory(model, spec.commandLine().getErr());
        if (json != null && (Files.isDirectory(json) || json.toAbsolutePath().getParent() == null
                || !Files.isDirectory(json.toAbsolutePath().getParent()))) {
            throw new IllegalArgumentException("--json " + json + ": expected a file in a directory that exists");
        }
        settings();
        PrintWriter out = spec.commandLine().getOut();
        try (Backend opened = backend.open()) {
            if (shape == null && model == null && opened.name().equals(Backend.SCALAR)) {
                shape = Shapes.TINY;
                out.println("shape " + shape + ": on the scalar backend the usual ones take many minutes a figure;"
                        + " --shape names another");
            }
            BenchSettings settings = settings();
            BenchRun.Source source = wanted.stream().noneMatch(Target::needsModel) ? null
                    : model != null ? new Directory(model, opened, settings)
                            : BenchRun.random(opened, shape == null ? USUAL_MODEL : shape, settings);
            Results results = BenchRun.run(opened, wanted, source, settings, line -> {
                out.println(line);
                out.flush();
            });
            if (json != null) {
                results.write(json);
            }
            return 0;
        }
    }

    private BenchSettings settings() throws IOException {
        int[] size = matrix(model != null ? DecoderConfig.read(model)
                : Shapes.named(shape == null ? USUAL_KERNELS : shape));
        double each = seconds != null ? seconds : targets.isEmpty() ? SECONDS_OF_ALL : SECONDS;
        return new BenchSettings(each, compute.dtype(), size[0], size[1], rank, dropout, batch, length,
                checkpointing, prefill, prompt, newTokens, BenchSettings.FOOTPRINT, Residency.parse(resident),
                offload.activations());
    }

    private Set<Target> targets() {
        Set<Target> wanted = EnumSet.noneOf(Target.class);
        for (String name : targets) {
            wanted.add(Arrays.stream(Target.values()).filter(t -> t.name().equalsIgnoreCase(name)).findFirst()
                    .orElseThrow(() -> new IllegalArgumentException(name + ": expected "
                            + String.join(", ", Arrays.stream(Target.values())
                                    .map(t -> t.name().toLowerCase(Locale.ROOT)).toList()))));
        }
        return wanted.isEmpty() ? EnumSet.allOf(Target.class) : wanted;
    }

    private int[] matrix(DecoderConfig config) {
        if (matrix == null) {
            return new int[]{config.intermediate(), config.hidden()};
        }
        Matcher m = MATRIX.matcher(matrix.strip());
        if (!m.matches()) {
            throw new IllegalArgumentException(
                    "--matrix " + matrix + ": expected rows and columns, such as 4096x14336");
        }
        return new int[]{Integer.parseInt(m.group(1)), Integer.parseInt(m.group(2))};
    }

    /** A model of the user's. */
    private record Directory(Path path, Backend backend, BenchSettings settings,
            DecoderConfig config) implements BenchRun.Source {
        Directory(Path path, Backend backend, BenchSettings settings) throws IOException {
            this(path, backend, settings, DecoderConfig.read(path));
        }

        @Override
        public String name() {
            return path.toString();
        }

        @Override
        public BenchRun.Opened open() throws IOException {
            CausalLm lm = CausalLm.load(ModelDirectory.open(path), backend,
                    new DecoderLoader(QuantConfig.QLORA, settings.type()));
            return new BenchRun.Opened(lm.decoder(), lm);
        }
    }
}
