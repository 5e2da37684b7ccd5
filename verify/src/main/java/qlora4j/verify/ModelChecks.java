package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** A recorded model: its base in float32, quantized here, and as a 4-bit checkpoint, and its adapters. */
final class ModelChecks {
    /** Five times the noise between two correct float32 implementations, for logits and hidden states. */
    static final double LOGITS = 5e-5;
    /** The same in bfloat16: the largest difference and the mean one. */
    static final double BF16_LARGEST = 6e-2;
    static final double BF16_MEAN = 8e-3;
    /** Two correct implementations may choose either of two tokens whose logits are this near. */
    static final double GREEDY_MARGIN = 1e-4;

    static final String BASE = "base";
    static final String EXPECTED = "expected.safetensors";
    static final Set<String> INPUTS = Set.of("input_ids", "labels", "attention_mask");
    static final String FOUR_BIT = "bnb4bit";
    static final int GREEDY_PROMPT = 8;
    private static final Pattern HIDDEN = Pattern.compile("fp32\\.hidden\\.(\\d+)");
    private static final DecoderLoader QLORA_BF16 = new DecoderLoader(QuantConfig.QLORA, DType.BF16);

    private final Session session;
    private final String name;
    private final Path directory;
    private final Safetensors recorded;
    private final SafetensorsModel base;
    private final DecoderConfig config;
    private final RecordedBatch batch;
    private final Lazy<Runs> dense = new Lazy<>(() -> load(DecoderLoader.DENSE));
    private final Lazy<Runs> nf4 = new Lazy<>(() -> load(DecoderLoader.QLORA));
    private final Lazy<List<Tensor>> hidden;

    private ModelChecks(Session session, String name, Path directory, Safetensors recorded, SafetensorsModel base)
            throws IOException {
        this.session = session;
        this.name = name;
        this.directory = directory;
        this.recorded = recorded;
        this.base = base;
        this.config = DecoderConfig.read(directory.resolve(BASE));
        this.batch = RecordedBatch.read(recorded);
        this.hidden = new Lazy<>(() -> dense.get().hidden(batch.batch(), Adapters.NONE));
    }

    static boolean describes(Path directory) {
        return Files.exists(directory.resolve(BASE).resolve(DecoderConfig.FILE))
                && Files.exists(directory.resolve(EXPECTED));
    }

    /** Whether it is the record of a model of a family that this version has. */
    static boolean isSupported(Path directory) throws IOException {
        if (!describes(directory)) {
            return false;
        }
        String type = architecture(directory);
        return Arrays.stream(DecoderConfig.Architecture.values()).anyMatch(a -> a.modelType().equals(type));
    }

    private static String architecture(Path directory) throws IOException {
        return JsonRecord.read(directory.resolve(BASE).resolve(DecoderConfig.FILE)).path("model_type").asText();
    }

    static void run(Session session, String name, Path directory) throws IOException {
        String type = architecture(directory);
        try (Safetensors recorded = Safetensors.open(directory.resolve(EXPECTED));
                SafetensorsModel base = SafetensorsModel.open(directory.resolve(BASE))) {
            if (!isSupported(directory)) {
                for (String key : keys(recorded)) {
                    session.report().unsupported(name + "." + key, "architecture " + type);
                }
                if (Files.isDirectory(directory.resolve(FOUR_BIT))) {
                    session.report().unsupported(name + "." + FOUR_BIT, "architecture " + type);
                }
                return;
            }
            new ModelChecks(session, name, directory, recorded, base).all();
        }
    }

    private static TreeSet<String> keys(Safetensors recorded) {
        TreeSet<String> keys = new TreeSet<>(recorded.names());
        keys.removeAll(INPUTS);
        return keys;
    }

    private Runs load(DecoderLoader loader) throws IOException {
        return new Runs(session, loader.load(config, base, session.backend()));
    }

    private void all() throws IOException {
        for (String key : keys(recorded)) {
            baseCheck(key);
        }
        if (Files.isDirectory(directory.resolve(FOUR_BIT))) {
            new CheckpointChecks(session, name + "." + FOUR_BIT, directory.resolve(FOUR_BIT), base, recorded, batch)
                    .all();
        }
        Set<String> others = keys(recorded);
        others.removeIf(this::isBaseKey);
        for (String variant : AdapterChecks.variants(directory)) {
            List<String> keys = others.stream().filter(k -> k.startsWith(variant + ".")).toList();
            new AdapterChecks(session, name, variant, directory, recorded, base, config, batch, nf4).all(keys);
            others.removeAll(keys);
        }
        others.forEach(k -> session.report().unsupported(name + "." + k, "a record of an unknown kind"));
    }

    private boolean isBaseKey(String key) {
        return switch (key) {
            case "fp32.logits", "nf4.logits", "nf4_bf16.logits", "fp32.greedy", "nf4.greedy" -> true;
            default -> HIDDEN.matcher(key).matches();
        };
    }

    private void baseCheck(String key) {
        Matcher m = HIDDEN.matcher(key);
        if (m.matches()) {
            int layer = Integer.parseInt(m.group(1));
            check(key, () -> Outcome.atMost(Compare.largest(hidden.get().get(layer), real(key)), LOGITS));
        }
        switch (key) {
            case "fp32.logits" -> check(key, () -> logits(dense.get(), key));
            case "nf4.logits" -> check(key, () -> logits(nf4.get(), key));
            case "nf4_bf16.logits" -> check(key, () -> {
                Tensor ours = load(QLORA_BF16).logits(batch.batch(), Adapters.NONE);
                return Outcome.atMost(Compare.largest(ours, real(key)), BF16_LARGEST).named("max")
                        .and(Outcome.atMost(Compare.mean(ours, real(key)), BF16_MEAN).named("mean"));
            });
            case "fp32.greedy" -> check(key, () -> greedy(dense.get(), key));
            case "nf4.greedy" -> check(key, () -> greedy(nf4.get(), key));
            default -> {
            }
        }
    }

    private void check(String key, Report.Body body) {
        session.report().check(name + "." + key, body);
    }

    private Tensor real(String key) {
        return batch.real(recorded.tensor(key));
    }

    private Outcome logits(Runs runs, String key) {
        return Outcome.atMost(Compare.largest(runs.logits(batch.batch(), Adapters.NONE), real(key)), LOGITS);
    }

    private Outcome greedy(Runs runs, String key) {
        int[] all = recorded.tensor(key).toInts();
        int[] prompt = batch.prompt(0, GREEDY_PROMPT);
        if (!Arrays.equals(prompt, Arrays.copyOf(all, GREEDY_PROMPT))) {
            return Outcome.fail("the record does not begin with its prompt");
        }
        int[] eos = config.eosIds().stream().mapToInt(Integer::intValue).toArray();
        return runs.greedy(prompt, Arrays.copyOfRange(all, GREEDY_PROMPT, all.length), Adapters.NONE, eos,
                GREEDY_MARGIN);
    }
}
