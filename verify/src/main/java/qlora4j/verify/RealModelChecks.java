package qlora4j.verify;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.model.Adapter;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.Message;
import qlora4j.model.TokenBatch;
import qlora4j.model.Tokenizer;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The record of a real model, against that model's directory. */
final class RealModelChecks implements AutoCloseable {
    /** Five times the noise between two correct float32 implementations at this size. */
    static final double NLL = 1e-4;
    static final double LOGITS = 1e-3;
    static final double FIRST_STEP = 5e-5;
    static final double LATER_STEPS = 1e-3;
    /** After ten steps of training, in which that noise grows. */
    static final double TRAINED_NLL = 2e-3;
    static final double TRAINED_LOGITS = 20 * LOGITS;
    static final double GREEDY_MARGIN = 1e-3;

    private static final String EXPECTED = "expected.json";
    static final String WEIGHTS = "nf4.weights";
    private static final String ADAPTER = "lora_init";
    private static final double LEARNING_RATE = 1e-3;
    private static final int ROWS_A_STEP = 4;

    private final Session session;
    private final String name;
    private final Path directory;
    private final JsonNode texts;
    private final Safetensors recorded;
    private final SafetensorsModel model;
    private final DecoderConfig config;
    private final Tokenizer tokenizer;
    private final RecordedBatch batch;
    private final Lazy<Runs> dense = new Lazy<>(() -> load(DecoderLoader.DENSE));
    private final Lazy<Runs> nf4 = new Lazy<>(() -> load(DecoderLoader.QLORA));
    private final Lazy<Adapter> adapter = new Lazy<>(this::openAdapter);
    private final Lazy<Runs.Training> training = new Lazy<>(this::train);

    private RealModelChecks(Session session, String name, Path directory, Safetensors recorded,
            SafetensorsModel model, Tokenizer tokenizer, DecoderConfig config) throws IOException {
        this.session = session;
        this.name = name;
        this.directory = directory;
        this.texts = JsonRecord.read(directory.resolve(EXPECTED));
        this.recorded = recorded;
        this.model = model;
        this.tokenizer = tokenizer;
        this.config = config;
        this.batch = RecordedBatch.read(recorded);
    }

    static boolean describes(Path directory) throws IOException {
        return Files.exists(directory.resolve(EXPECTED)) && Files.exists(directory.resolve(ModelChecks.EXPECTED))
                && JsonRecord.read(directory.resolve(EXPECTED)).has(WEIGHTS);
    }

    /** What is missing for real models to be run; empty for nothing. */
    static String needs(Conformance.Options options) {
        if (options.model() == null) {
            return "needs --model";
        }
        return options.backend().name().equals(Backend.SCALAR) ? "needs a faster backend than scalar" : "";
    }

    static void run(Session session, String name, Path directory, Path modelDirectory) throws IOException {
        try (Safetensors recorded = Safetensors.open(directory.resolve(ModelChecks.EXPECTED));
                SafetensorsModel model = SafetensorsModel.open(modelDirectory);
                Tokenizer tokenizer = Tokenizer.open(modelDirectory);
                RealModelChecks checks = new RealModelChecks(session, name, directory, recorded, model, tokenizer,
                        DecoderConfig.read(modelDirectory))) {
            checks.all();
        }
    }

    private Runs load(DecoderLoader loader) throws IOException {
        return new Runs(session, loader.load(config, model, session.backend()));
    }

    private void all() {
        check("encode", this::encoded);
        check("chat", this::chats);
        check("chat.ids", this::chatIds);
        check("nf4.packed", () -> weights("packed_sha256"));
        check("nf4.nested_absmax", () -> weights("nested_absmax_sha256"));
        check("nf4.offset", () -> weights("offset"));
        runs("fp32", dense, () -> Adapters.NONE, NLL, LOGITS);
        runs("nf4", nf4, () -> Adapters.NONE, NLL, LOGITS);
        AdapterChecks.steps(session, name + ".lora.losses", () -> training.get().losses(),
                recorded.tensor("lora.losses"), false, FIRST_STEP, LATER_STEPS);
        AdapterChecks.steps(session, name + ".lora.grad_norms", () -> training.get().norms(),
                recorded.tensor("lora.grad_norms"), true, FIRST_STEP, LATER_STEPS);
        runs("trained", nf4, () -> {
            training.get();
            return adapter.get().use();
        }, TRAINED_NLL, TRAINED_LOGITS);
    }

    private void check(String part, Report.Body body) {
        session.report().check(name + "." + part, body);
    }

    private void runs(String kind, Lazy<Runs> runs, Lazy.Source<Adapters> adapters, double nllLimit,
            double logitsLimit) {
        check(kind + ".nll", () -> Outcome.atMost(Compare.largest(nll(runs.get(), adapters.get()),
                recorded.tensor(kind + ".nll")), nllLimit));
        check(kind + ".logits", () -> {
            Tensor expected = recorded.tensor(kind + ".logits");
            TokenBatch rows = batch.batch(0, Math.toIntExact(expected.dim(0)));
            return Outcome.atMost(Compare.largest(runs.get().lastLogits(rows, adapters.get()), expected), logitsLimit);
        });
        int prompts = texts.get(kind + ".greedy").size();
        for (int i = 0; i < prompts; i++) {
            JsonNode one = texts.get(kind + ".greedy").get(i);
            check(kind + ".greedy." + i, () -> runs.get().greedy(JsonRecord.ints(one.get("prompt_ids")),
                    JsonRecord.ints(one.get("new_ids")), adapters.get(), new int[0], GREEDY_MARGIN));
            check(kind + ".greedy." + i + ".text", () -> {
                TextTally tally = new TextTally();
                tally.text("text", tokenizer.decode(JsonRecord.ints(one.get("new_ids")), false),
                        one.get("text").textValue());
                return tally.outcome();
            });
        }
    }

    private Outcome encoded() {
        TextTally tally = new TextTally();
        for (JsonNode c : texts.get("encode")) {
            String text = c.get("text").textValue();
            tally.ids(text, tokenizer.encode(text, false), JsonRecord.ints(c.get("ids")));
        }
        return tally.outcome();
    }

    /** The whole conversation, and the one without its last turn, which the model is to write. */
    private Outcome chats() {
        TextTally tally = new TextTally();
        for (JsonNode c : texts.get("chat")) {
            List<Message> messages = TokenizerChecks.messages(c.get("messages"));
            tally.text("rendered", tokenizer.renderChat(messages, false), c.get("rendered").textValue());
            tally.text("prompt", tokenizer.renderChat(messages.subList(0, messages.size() - 1), true),
                    c.get("prompt").textValue());
        }
        return tally.outcome();
    }

    private Outcome chatIds() {
        TextTally tally = new TextTally();
        for (JsonNode c : texts.get("chat")) {
            tally.ids("chat", tokenizer.encode(tokenizer.renderChat(
                    TokenizerChecks.messages(c.get("messages")), false), false), JsonRecord.ints(c.get("ids")));
        }
        return tally.outcome();
    }

    /** Compares one property of every recorded 4-bit weight. */
    private Outcome weights(String property) throws IOException {
        Map<String, Linear> linears = nf4.get().decoder().linears();
        TextTally tally = new TextTally();
        for (Map.Entry<String, JsonNode> e : texts.get(WEIGHTS).properties()) {
            String module = e.getKey().substring(0, e.getKey().length() - ".weight".length());
            Linear linear = linears.get(module);
            String ours = linear != null && linear.weight() instanceof LinearWeight.Quantized(QuantizedTensor w)
                    ? property(w, property)
                    : "there is no such 4-bit weight";
            JsonNode expected = e.getValue().get(property);
            tally.text(e.getKey(), ours, expected.isNumber()
                    ? Float.toString(expected.floatValue())
                    : expected.textValue());
        }
        return tally.outcome();
    }

    private String property(QuantizedTensor w, String property) {
        return switch (property) {
            case "packed_sha256" -> sha256(w.packed());
            case "nested_absmax_sha256" -> sha256(w.absmax());
            case "offset" -> Float.toString((float) session.host(w.offset()).get(0));
            default -> throw new IllegalArgumentException(property);
        };
    }

    private String sha256(Tensor bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256")
                    .digest(session.host(bytes).data().toArray(ValueLayout.JAVA_BYTE)));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java has SHA-256", e);
        }
    }

    /** The mean over each row's labels. */
    private Tensor nll(Runs runs, Adapters adapters) {
        Tensor each = runs.nll(batch.batch(), adapters, batch.labels(0, batch.height()));
        Tensor means = Tensor.zeros(DType.F64, batch.height());
        long at = 0;
        for (int row = 0; row < batch.height(); row++) {
            int n = batch.labels(row, row + 1);
            double sum = 0;
            for (int i = 0; i < n; i++) {
                sum += each.get(at++);
            }
            means.set(row, sum / n);
        }
        return means;
    }

    private Adapter openAdapter() throws IOException {
        return Adapter.load(nf4.get().decoder(), 0, directory.resolve(ADAPTER), true);
    }

    /** Step s trains {@value #ROWS_A_STEP} rows, the batch's rows in turn. */
    private Runs.Training train() throws IOException {
        int steps = Math.toIntExact(recorded.info("lora.losses").elements());
        return nf4.get().train(adapter.get(), steps, LEARNING_RATE, s -> {
            int from = ROWS_A_STEP * (s % (batch.height() / ROWS_A_STEP));
            return new Runs.Step(batch.batch(from, from + ROWS_A_STEP), batch.labels(from, from + ROWS_A_STEP));
        });
    }

    @Override
    public void close() {
        adapter.ifComputed(Adapter::close);
    }
}
