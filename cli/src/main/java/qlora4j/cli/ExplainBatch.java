package qlora4j.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.model.ModelDirectory;
import qlora4j.model.Tokenizer;
import qlora4j.train.SftTrainer;
import qlora4j.train.TrainSettings;
import qlora4j.train.data.Batches;
import qlora4j.train.data.DataFault;
import qlora4j.train.data.Encoder;
import qlora4j.train.data.ExplainedBatch;
import qlora4j.train.data.ExplainedBatch.Sample;
import qlora4j.train.data.ExplainedBatch.Token;
import qlora4j.train.data.TokenizedData;

/** {@code qlora explain-batch}: what a step of {@code finetune} reads and learns, token by token. */
@Command(name = "explain-batch", sortOptions = false, description = {
        "Shows what a step of finetune with the same options reads: each token, where it comes from, and whether it is"
                + " learned. No weights are loaded.",
        "Ends with 1 where rows of the data have no labels, begin with BOS twice, do not learn their EOS, or would be"
                + " cut before their answer."})
final class ExplainBatch implements Callable<Integer> {
    private static final int FAULTS = 1;
    private static final int SHOWN_ROWS = 5;
    private static final int TOKEN_WIDTH = 24;
    private static final ObjectMapper JSON = new ObjectMapper();

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model; its tokenizer, configuration and chat template are read.")
    private Path model;

    @Mixin
    private DataOptions data;

    @Option(names = "--step", paramLabel = "N", defaultValue = "1",
            description = "The step to show, from 1 (default: ${DEFAULT-VALUE}).")
    private int step;

    @Option(names = "--json", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Print one JSON object; what is said of the data goes to standard error.")
    private boolean json;

    @Option(names = "--color", paramLabel = "WHEN", defaultValue = "auto",
            description = "auto, always or never (default: ${DEFAULT-VALUE}: on a terminal, unless NO_COLOR is set).")
    private String color;

    @Option(names = "--output", hidden = true, description = "Taken and not used, as finetune has it.")
    private Path unused;

    @Mixin
    private TrainOptions train;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        if (step < 1) {
            throw new IllegalArgumentException("--step " + step + ": steps count from 1");
        }
        boolean colored = colored();
        TrainSettings settings = train.settings();
        Path directory = HubModels.directory(model, spec.commandLine().getErr());
        try (ModelDirectory files = ModelDirectory.open(directory)) {
            PrintWriter said = json ? spec.commandLine().getErr() : out;
            train.tokens().in(files, train.lora("model"));
            DataOptions.Prepared prepared = data.prepare(files, settings.maxLength(), train.seed(), said);
            said.flush();
            TokenizedData rows = prepared.train();
            Encoder encoder = SftTrainer.encoder(files, settings.maxLength());
            Batches batches = SftTrainer.batches(rows, settings);
            ExplainedBatch batch =
                    ExplainedBatch.of(rows, batches.at(step - 1), encoder, prepared.templates());
            List<DataFault> faults = DataFault.of(rows, encoder);
            if (json) {
                out.println(JSON.writerWithDefaultPrettyPrinter().writeValueAsString(json(files.tokenizer(), batch,
                        faults, rows)));
            } else {
                table(out, files.tokenizer(), batch, colored);
                faults(out, faults, rows);
            }
            out.flush();
            return faults.isEmpty() ? 0 : FAULTS;
        }
    }

    private boolean colored() {
        return switch (color.toLowerCase(Locale.ROOT)) {
            case "auto" -> Ansi.AUTO.enabled();
            case "always" -> true;
            case "never" -> false;
            default -> throw new IllegalArgumentException("--color " + color + ": expected auto, always or never");
        };
    }

    private void table(PrintWriter out, Tokenizer tokenizer, ExplainedBatch batch, boolean colored) {
        double weight = 1.0 / batch.labelTokens();
        int tokens = batch.samples().stream().mapToInt(s -> s.tokens().size()).sum();
        out.printf(Locale.ROOT,
                "step %d: %d samples, %,d tokens, %,d of them learned, each with the weight 1/%d = %.3g%n",
                step, batch.samples().size(), tokens, batch.labelTokens(), batch.labelTokens(), weight);
        for (Sample sample : batch.samples()) {
            long learned = sample.tokens().stream().filter(Token::learned).count();
            out.printf(Locale.ROOT, "%n%s (micro-batch %d, segment %d): %,d tokens, %,d learned%s%n", sample.where(),
                    sample.microBatch() + 1, sample.segment(), sample.tokens().size(), learned,
                    sample.promptCut() == 0 ? ""
                            : String.format(Locale.ROOT, ", %,d cut away behind BOS", sample.promptCut()));
            out.printf(Locale.ROOT, "%5s %7s  %-" + TOKEN_WIDTH + "s  %-11s %-12s %4s  %s%n", "pos", "id", "token",
                    "role", "origin", "mask", "weight");
            for (Token t : sample.tokens()) {
                String line = String.format(Locale.ROOT, "%5d %7d  %-" + TOKEN_WIDTH + "s  %-11s %-12s %4d  %s",
                        t.position(), t.id(), visible(text(tokenizer, t.id())), t.role() == null ? "-" : t.role(),
                        t.origin(), t.learned() ? 1 : 0,
                        t.learned() ? String.format(Locale.ROOT, "%.3g", weight) : "0");
                out.println(colored ? paint(t, line) : line);
            }
        }
    }

    /** Learned tokens are green, what nobody wrote is faint. */
    private static String paint(Token t, String line) {
        String code = t.learned() ? t.field() == null ? "32" : "1;32" : t.field() == null ? "2" : "0";
        return "\u001b[" + code + "m" + line + "\u001b[0m";
    }

    private static String text(Tokenizer tokenizer, int id) {
        return tokenizer.decode(new int[]{id}, false);
    }

    /** A token's text in quotes, with nothing in it that moves a terminal's cursor. */
    private static String visible(String text) {
        StringBuilder shown = new StringBuilder("\"");
        text.codePoints().forEach(c -> {
            switch (c) {
                case '\n' -> shown.append("\\n");
                case '\r' -> shown.append("\\r");
                case '\t' -> shown.append("\\t");
                default -> {
                    boolean unseen = Character.isISOControl(c) || Character.getType(c) == Character.FORMAT
                            || Character.getType(c) == Character.LINE_SEPARATOR
                            || Character.getType(c) == Character.PARAGRAPH_SEPARATOR;
                    shown.append(unseen ? String.format(Locale.ROOT, "\\u%04x", c) : Character.toString(c));
                }
            }
        });
        return shown.append('"').toString();
    }

    private static void faults(PrintWriter out, List<DataFault> faults, TokenizedData rows) {
        out.println();
        for (DataFault fault : faults) {
            List<String> shown = fault.rows().subList(0, Math.min(SHOWN_ROWS, fault.rows().size()));
            out.printf(Locale.ROOT, "FAULT %s in %,d rows (%s): %s%s%n", fault.kind().title(), fault.rows().size(),
                    fault.kind().meaning(), String.join("; ", shown),
                    shown.size() < fault.rows().size() ? "; ..." : "");
        }
        if (faults.isEmpty()) {
            out.printf(Locale.ROOT, "no faults in %,d rows%n", rows.report().rows());
        }
    }

    private ObjectNode json(Tokenizer tokenizer, ExplainedBatch batch, List<DataFault> faults, TokenizedData rows) {
        double weight = 1.0 / batch.labelTokens();
        ObjectNode root = JSON.createObjectNode().put("step", step).put("rows", rows.report().rows())
                .put("rows_kept", rows.report().kept()).put("rows_shortened", rows.report().shortened())
                .put("label_tokens", batch.labelTokens());
        ArrayNode samples = root.putArray("samples");
        for (Sample s : batch.samples()) {
            ObjectNode sample = samples.addObject().put("row", s.where()).put("micro_batch", s.microBatch())
                    .put("segment", s.segment()).put("prompt_cut", s.promptCut());
            ArrayNode tokens = sample.putArray("tokens");
            for (Token t : s.tokens()) {
                tokens.addObject().put("position", t.position()).put("id", t.id())
                        .put("text", text(tokenizer, t.id())).put("role", t.role()).put("origin", t.origin())
                        .put("mask", t.learned() ? 1 : 0).put("weight", t.learned() ? weight : 0);
            }
        }
        ObjectNode found = root.putObject("faults");
        for (DataFault fault : faults) {
            ArrayNode where = found.putArray(fault.kind().name().toLowerCase(Locale.ROOT));
            fault.rows().forEach(where::add);
        }
        return root;
    }
}
