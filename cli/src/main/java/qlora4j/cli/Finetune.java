package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.model.HostLayerInputs;
import qlora4j.model.ModelDirectory;
import qlora4j.tensor.Backend;
import qlora4j.train.MemoryPlan;
import qlora4j.train.SftTrainer;
import qlora4j.train.TrainSettings;
import qlora4j.train.data.TokenizedData;

/** {@code qlora finetune}: trains an adapter through a base model in 4 bits. */
@Command(name = "finetune", sortOptions = false, description = {
        "Trains LoRA adapters through a base model held in 4-bit NormalFloat, and writes a PEFT adapter.",
        "The data are JSON, JSON lines, CSV or Parquet of {instruction, input, output}, {prompt, completion},"
                + " {messages} or {text}; explain-batch shows what becomes of them."})
final class Finetune implements Callable<Integer> {
    private static final String ADAPTER = "default";
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, dense or 4-bit, or a model of the hub.")
    private Path model;

    @Mixin
    private DataOptions data;

    @Option(names = "--output", required = true, paramLabel = "DIR",
            description = "Where the adapter, the checkpoints, metrics.jsonl and report.html go.")
    private Path output;

    @Option(names = "--resume", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Go on from the newest checkpoint in --output.")
    private boolean resume;

    @Option(names = "--overwrite-output-dir", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Delete the adapter and the checkpoints that --output holds, and start anew.")
    private boolean overwrite;

    @Mixin
    private TrainOptions train;

    @Mixin
    private ReportOptions reports;

    @Mixin
    private ComputeOptions compute;

    @Mixin
    private BackendOptions backend;

    private PrintWriter out;

    @Override
    public Integer call() throws IOException {
        out = spec.commandLine().getOut();
        TrainSettings settings = train.settings();
        LoraConfig lora = train.lora(HubModels.name(model));
        DecoderLoader loader = new DecoderLoader(QuantConfig.QLORA, compute.dtype());
        if (resume && overwrite) {
            throw new IllegalArgumentException("--resume and --overwrite-output-dir contradict each other");
        }
        reports.check();
        new OutputDirectory(output).prepare(resume || overwrite);
        ModelDirectory directory = ModelDirectory.open(HubModels.directory(model, spec.commandLine().getErr()));
        TokenizedData rows;
        TokenizedData held;
        try {
            if (directory.generation().eosIds().isEmpty()) {
                throw new IllegalArgumentException(model + ": neither generation_config.json nor config.json names an"
                        + " eos_token_id; a completion needs one to end with");
            }
            lora = train.tokens().in(directory, lora);
            loader = loader.withRoomFor(lora.tokens());
            DataOptions.Prepared prepared = data.prepare(directory, settings.maxLength(), train.seed(), out);
            rows = prepared.train();
            held = prepared.held();
        } catch (IOException | RuntimeException e) {
            directory.close();
            throw e;
        }
        try (Backend opened = openOrClose(directory, settings)) {
            MemoryPlan predicted = MemoryPlan.predict(opened, new MemoryPlan.Job(directory.config(), loader,
                    directory.weights(), lora, settings, SftTrainer.largest(rows, settings.perDeviceBatch()),
                    held == null ? null : SftTrainer.largestEvaluation(held.rows())));
            out.println("memory predicted: " + predicted.line());
            out.flush();
            opened.predicted(predicted.total());
            try (CausalLm lm = CausalLm.load(directory, opened, loader)) {
                Adapter adapter = lm.attach(ADAPTER, lora);
                out.println(lm.report(adapter).line());
                if (overwrite) {
                    new OutputDirectory(output).clear();
                }
                RunReport report = new RunReport(spec, "Fine-tuning of " + model, output, opened, predicted,
                        facts(rows, held, lm.report(adapter).line()));
                out.printf(Locale.ROOT, "linear layers: %.3f bits/param%n", lm.linearBitsPerParameter());
                try (SftTrainer trainer = new SftTrainer(lm, adapter, rows, held, settings, output)) {
                    if (resume) {
                        Optional<Path> from = trainer.resume();
                        out.println(from.map(p -> "resuming from " + p)
                                .orElse("no checkpoint in " + output + ": starting anew"));
                        if (from.isPresent()) {
                            report.resumed(from.get());
                        }
                    }
                    try (ReportOptions.Events events = reports.events(output);
                            Progress progress = Progress.of(out, trainer.trainer().step(),
                                    trainer.trainer().totalSteps(), settings.loggingSteps()).with(events)) {
                        trainer.run(progress);
                    }
                    report(opened, predicted);
                    report.ended(opened);
                }
                if (reports.samples() > 0) {
                    out.println("report: the base and the adapter answer " + reports.samples() + " prompts");
                    out.flush();
                }
                report.samples(lm, ADAPTER, held == null ? null : held.rows(), rows.rows(), reports.samples());
                out.println("report: " + report.write());
            }
        }
        out.println("adapter: " + output);
        return 0;
    }

    private static Map<String, String> facts(TokenizedData rows, TokenizedData held, String parameters) {
        Map<String, String> facts = new LinkedHashMap<>();
        facts.put("data", rows.report().summary());
        if (held != null) {
            facts.put("held out", held.report().summary());
        }
        facts.put("parameters", parameters);
        return facts;
    }

    /** The backend, if it can do what is asked for; what cannot be is said before anything is loaded. */
    private Backend openOrClose(ModelDirectory directory, TrainSettings settings) {
        Backend opened = null;
        try {
            opened = backend.open();
            if (settings.offloadActivations()) {
                HostLayerInputs.requireGpu(opened);
            }
            return opened;
        } catch (RuntimeException e) {
            if (opened != null) {
                opened.close();
            }
            directory.close();
            throw e;
        }
    }

    /** What was held, while it still is, beside what had been predicted. */
    private void report(Backend opened, MemoryPlan predicted) throws IOException {
        out.println("memory predicted: " + predicted.line());
        out.println("memory measured:  " + MemoryPlan.held(opened.ledger()).line());
        out.printf(Locale.ROOT, "memory at its peak: %.1f MB on the device (%+.1f %% against the prediction)%s%s%n",
                opened.ledger().peak() / MB, 100.0 * (opened.ledger().peak() - predicted.total()) / predicted.total(),
                driversCount(opened), residentPeak());
    }

    /** What a GPU's driver says is in use, contexts and code included. */
    private static String driversCount(Backend opened) {
        return opened.device().isHost() || opened.systemBytes().isEmpty() ? ""
                : String.format(Locale.ROOT, " (%.1f MB in use by its driver's count)",
                        opened.systemBytes().getAsLong() / MB);
    }

    /** The process's largest resident set, mapped pages of the checkpoint included, where the system says it. */
    private static String residentPeak() throws IOException {
        Path status = Path.of("/proc/self/status");
        if (!Files.isReadable(status)) {
            return "";
        }
        for (String line : Files.readAllLines(status)) {
            if (line.startsWith("VmHWM:")) {
                long kib = Long.parseLong(line.replaceAll("\\D", ""));
                return String.format(Locale.ROOT, ", %.1f MB resident in the process", kib * 1024 / MB);
            }
        }
        return "";
    }
}
