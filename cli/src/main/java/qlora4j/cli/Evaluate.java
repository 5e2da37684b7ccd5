package qlora4j.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.blockwise.QuantConfig;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.tensor.Backend;
import qlora4j.train.ExactMatch;
import qlora4j.train.Perplexity;
import qlora4j.train.SftTrainer;
import qlora4j.train.data.Batch;
import qlora4j.train.data.Row;
import qlora4j.train.data.Split;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.data.TokenizedRow;

/** {@code qlora evaluate}: what quantizing costs and what adapters bring, in one table. */
@Command(name = "evaluate", sortOptions = false, description = {
        "Perplexity and exact matches of the dense base model, of the base in 4 bits, and of each adapter on it.",
        "With --data the completions of the rows are scored (with --eval-split only those that finetune would set aside"
                + " under the same --seed), and written greedily to count exact matches; with --text all tokens of a file."
                + " What is longer than --max-seq-length is scored in windows that slide by --stride."})
final class Evaluate implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    private static final String FOUR_BITS = "base, 4-bit";
    private static final String SHOWN = " (default: ${DEFAULT-VALUE}).";
    private static final int USUAL_LENGTH = 1024;
    /** Longer than any context: rows are not cut but scored in windows. */
    private static final int UNCUT = Integer.MAX_VALUE / 2;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, dense or 4-bit, or a model of the hub.")
    private Path model;

    @Mixin
    private NamedAdapters adapters;

    @Mixin
    private DataOptions data;

    @Option(names = "--text", paramLabel = "FILE",
            description = "Instead of --data: a text, all of whose tokens count.")
    private Path text;

    @Option(names = "--max-seq-length", paramLabel = "TOKENS",
            description = "The most tokens of a window (default: " + USUAL_LENGTH
                    + ", or what the model was made for if that is less).")
    private Integer asked;

    private int length;

    @Option(names = "--stride", paramLabel = "TOKENS", defaultValue = "512",
            description = "How far apart windows begin; what stands before is context" + SHOWN)
    private int stride;

    @Option(names = "--per-device-eval-batch-size", paramLabel = "N", defaultValue = "8",
            description = "Windows that go through the model at once" + SHOWN)
    private int batch;

    @Option(names = "--exact-match", arity = "0..1", defaultValue = "true", fallbackValue = "true", paramLabel = "BOOL",
            description = "Whether to write the rows' completions and count those that are as expected" + SHOWN)
    private boolean exact;

    @Option(names = "--no-dense", description = "Leave out the dense model, which takes several times the memory.")
    private boolean noDense;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "42", description = "Of --eval-split" + SHOWN)
    private long seed;

    @Option(names = "--json", paramLabel = "FILE", description = "Write the figures as JSON too.")
    private Path json;

    @Mixin
    private ComputeOptions compute;

    @Mixin
    private BackendOptions backend;

    private PrintWriter out;
    private final List<Figure> figures = new ArrayList<>();

    /** A line of the table. */
    private record Figure(String name, Perplexity perplexity, ExactMatch match) {
    }

    /** What is scored. */
    private record Material(List<TokenizedRow> rows, List<Batch> windows) {
    }

    @Override
    public Integer call() throws IOException {
        out = spec.commandLine().getOut();
        if (data.given() == (text != null)) {
            throw new IllegalArgumentException("give --data FILE or --text FILE");
        }
        if (batch < 1) {
            throw new IllegalArgumentException("--per-device-eval-batch-size " + batch + ": must be at least 1");
        }
        Map<String, Path> named = adapters.named();
        Path directory = HubModels.directory(model, spec.commandLine().getErr());
        Material material;
        boolean fourBits;
        try (ModelDirectory files = ModelDirectory.open(directory)) {
            material = material(files);
            fourBits = files.config().quantization() != null;
        }
        out.printf(Locale.ROOT, "%-24s%12s%12s%14s%16s%n", "", "tokens", "NLL", "perplexity", "exact match");
        if (fourBits && !noDense) {
            out.println("(the model is in 4 bits already: there is no dense base to compare with)");
        } else if (!noDense) {
            try (Backend opened = backend.open();
                    CausalLm lm = CausalLm.load(directory, opened, new DecoderLoader(null, compute.dtype()))) {
                score(lm, CausalLm.BASE, CausalLm.BASE, material);
            }
        }
        try (Backend opened = backend.open();
                CausalLm lm = CausalLm.load(directory, opened,
                        new DecoderLoader(QuantConfig.QLORA, compute.dtype()))) {
            adapters.load(lm, spec.commandLine().getErr());
            score(lm, CausalLm.BASE, FOUR_BITS, material);
            for (String name : named.keySet()) {
                score(lm, name, name, own(lm, name, directory, material));
            }
        }
        if (json != null) {
            write();
        }
        return 0;
    }

    /** What an adapter is scored on: the same in the tokens of its own tokenizer, where it has one. */
    private Material own(CausalLm lm, String name, Path base, Material material) throws IOException {
        if (lm.tokenizer(name) == lm.tokenizer()) {
            return material;
        }
        try (ModelDirectory files = adapters.tokensOf(name, base, spec.commandLine().getErr())) {
            return material(files);
        }
    }

    private Material material(ModelDirectory files) throws IOException {
        int positions = files.config().maxPositions();
        length = asked == null ? Math.min(USUAL_LENGTH, positions) : asked;
        if (length > positions) {
            throw new IllegalArgumentException("--max-seq-length " + length + ": the model was made for at most "
                    + positions);
        }
        List<TokenizedRow> rows = text == null ? rows(files)
                : List.of(new TokenizedRow(ids(files), 0, 0));
        List<Batch> windows = Perplexity.windows(rows, length, Math.min(stride, length), batch);
        out.printf(Locale.ROOT, "%s: %,d tokens in %,d windows of up to %d, %d apart%n",
                text == null ? rows.size() + " rows" : text.toString(),
                rows.stream().mapToLong(TokenizedRow::length).sum(), windows.stream().mapToInt(Batch::samples).sum(),
                length, Math.min(stride, length));
        return new Material(rows, windows);
    }

    private int[] ids(ModelDirectory files) throws IOException {
        int[] ids = files.tokenizer().encode(Files.readString(text), true);
        if (ids.length < 2) {
            throw new IllegalArgumentException("--text " + text + ": it has " + ids.length
                    + " tokens; at least two are needed");
        }
        return ids;
    }

    private List<TokenizedRow> rows(ModelDirectory files) throws IOException {
        Split split = data.split(seed, out);
        List<Row> chosen = split.eval().isEmpty() ? split.train() : split.eval();
        TokenizedData encoded = SftTrainer.encoder(files, UNCUT).encode(chosen, data.template(files));
        return encoded.rows();
    }

    private void score(CausalLm lm, String adapter, String name, Material material) throws IOException {
        Perplexity perplexity = Perplexity.of(lm.decoder(), lm.use(adapter), material.windows);
        ExactMatch match = exact && text == null ? ExactMatch.of(lm, adapter, material.rows) : null;
        figures.add(new Figure(name, perplexity, match));
        out.printf(Locale.ROOT, "%-24s%,12d%12.4f%14.4f%16s%n", name, perplexity.tokens(), perplexity.nll(),
                perplexity.value(), match == null ? "-" : match.matched() + "/" + match.rows());
        if (match != null && match.skipped() > 0) {
            out.println("(" + match.skipped() + " rows are longer than the model's context and were not written)");
        }
        out.flush();
    }

    private void write() throws IOException {
        ObjectNode root = JSON.createObjectNode().put("model", model.toString()).put("max_seq_length", length)
                .put("stride", Math.min(stride, length));
        ArrayNode list = root.putArray("results");
        for (Figure f : figures) {
            ObjectNode o = list.addObject().put("name", f.name).put("tokens", f.perplexity.tokens())
                    .put("nll", f.perplexity.nll()).put("perplexity", f.perplexity.value());
            if (f.match != null) {
                o.put("exact_match", f.match.rows() == 0 ? 0.0 : (double) f.match.matched() / f.match.rows())
                        .put("matched", f.match.matched()).put("rows", f.match.rows()).put("skipped",
                                f.match.skipped());
            }
        }
        Files.writeString(json, JSON.writeValueAsString(root) + "\n");
    }
}
