package qlora4j.model;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.function.Predicate;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.ParameterReport;
import qlora4j.lora.PeftAdapter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Tensor;

/**
 * A model with its tokenizer and its adapters: what most users of the Java API hold. The backend is the caller's; a
 * model's weights live as long as it does.
 *
 * <pre>{@code
 * try (Backend cpu = Backends.open("auto");
 *         CausalLm lm = CausalLm.load(Path.of("MODEL_DIR"), cpu, DecoderLoader.QLORA)) {
 *     lm.load("pirate", Path.of("ADAPTER_DIR"));
 *     System.out.println(lm.generate("pirate", "Hello", GenerateOptions.greedy(40)));
 * }
 * }</pre>
 */
public final class CausalLm implements AutoCloseable {
    /** The name under which the base alone is used. */
    public static final String BASE = "base";

    private final ModelDirectory directory;
    private final Decoder decoder;
    private final Map<String, Adapter> adapters = new LinkedHashMap<>();
    private final Map<String, Tokenizer> tokenizers = new LinkedHashMap<>();
    private int slots;

    private CausalLm(ModelDirectory directory, Decoder decoder) {
        this.directory = directory;
        this.decoder = decoder;
    }

    /** Loads a Hugging Face model directory, quantizing it tensor by tensor when the loader says so. */
    public static CausalLm load(Path path, Backend backend, DecoderLoader loader) throws IOException {
        return load(ModelDirectory.open(path), backend, loader);
    }

    /** The same of a directory that is open; it is closed with the model, and when loading fails. */
    public static CausalLm load(ModelDirectory directory, Backend backend, DecoderLoader loader) throws IOException {
        try {
            directory.tokenizer();
            Decoder decoder = loader.load(directory.config(), directory.weights(), backend);
            directory.closeWeights();
            return new CausalLm(directory, decoder);
        } catch (IOException | RuntimeException e) {
            directory.close();
            throw e;
        }
    }

    public ModelDirectory directory() {
        return directory;
    }

    public Decoder decoder() {
        return decoder;
    }

    public Tokenizer tokenizer() throws IOException {
        return directory.tokenizer();
    }

    /** The tokenizer of an adapter: its own, where it has added tokens and came with one, else the model's. */
    public Tokenizer tokenizer(String adapter) throws IOException {
        Tokenizer own = tokenizers.get(adapter);
        return own == null ? tokenizer() : own;
    }

    /** Whether an adapter's directory has a tokenizer that goes with tokens of its own. */
    public static boolean hasTokenizer(Path adapter) throws IOException {
        if (!Files.exists(adapter.resolve(Tokenizer.FILE))) {
            return false;
        }
        try (PeftAdapter file = PeftAdapter.open(adapter)) {
            return !file.config().tokens().isEmpty() || file.whole().containsKey(ModelTensors.EMBEDDING);
        }
    }

    private void tokenizer(String name, Path adapter) throws IOException {
        if (hasTokenizer(adapter)) {
            tokenizers.put(name, Tokenizer.open(adapter));
        }
    }

    /**
     * Attaches a new adapter to be trained. One that begins with a part of the weights (PiSSA, LoftQ) reads them again,
     * and may change the base for all adapters.
     */
    public Adapter attach(String name, LoraConfig config) {
        if (!config.init().needsWeights()) {
            return put(name, Adapter.create(decoder, freeSlot(name), config));
        }
        if (config.init().changesBase() && !adapters.isEmpty()) {
            throw new IllegalArgumentException("--init-lora-weights " + config.init() + " changes the base model, on"
                    + " which there are adapters already: " + adapters.keySet());
        }
        try {
            return put(name, Adapter.create(decoder, freeSlot(name), config, directory.weights()));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } finally {
            directory.closeWeights();
        }
    }

    /** Loads a PEFT adapter. */
    public Adapter load(String name, Path path) throws IOException {
        Adapter adapter = put(name, Adapter.load(decoder, freeSlot(name), path, false));
        tokenizer(name, path);
        return adapter;
    }

    /** Loads a PEFT adapter to train it further. */
    public Adapter loadTrainable(String name, Path path) throws IOException {
        Adapter adapter = put(name, Adapter.load(decoder, freeSlot(name), path, true));
        tokenizer(name, path);
        return adapter;
    }

    private int freeSlot(String name) {
        if (name.equals(BASE) || adapters.containsKey(name)) {
            throw new IllegalArgumentException("an adapter cannot be called " + name + ": the name is taken");
        }
        return slots;
    }

    private Adapter put(String name, Adapter adapter) {
        adapters.put(name, adapter);
        slots++;
        return adapter;
    }

    /** The adapter called {@code name}; an error that lists the names when there is none. */
    public Adapter adapter(String name) {
        Adapter a = adapters.get(name);
        if (a == null) {
            throw new IllegalArgumentException("no adapter is called " + name + "; there are " + adapters.keySet());
        }
        return a;
    }

    /** Calls that use the adapter {@code name}, or the base alone when it is {@link #BASE}. */
    public Adapters use(String name) {
        return name.equals(BASE) ? Adapters.NONE : adapter(name).use();
    }

    /** Trainable and frozen parameters with {@code adapter} being trained, and the base's bits a parameter. */
    public ParameterReport report(Adapter adapter) {
        long all = ModelTensors.expected(decoder.config()).values().stream().mapToLong(Tensor::elements).sum();
        long other = all - linearElements();
        return new ParameterReport(adapter.parameters().parameters(), linearElements() + other,
                linearBytes() + decoder.type().bytes(other));
    }

    private long linearElements() {
        return decoder.linears().values().stream().mapToLong(l -> (long) l.outFeatures() * l.inFeatures()).sum();
    }

    private long linearBytes() {
        return decoder.linears().values().stream().mapToLong(l -> l.weight().bytes()).sum();
    }

    /** Bits a parameter of the linear layers, constants included: 4.127 for NF4 with double quantization. */
    public double linearBitsPerParameter() {
        return 8.0 * linearBytes() / linearElements();
    }

    /** Whether linear layers are held in 4 bits. */
    public boolean quantized() {
        return decoder.linears().values().iterator().next().weight() instanceof LinearWeight.Quantized;
    }

    /** The tokens that end a text. */
    public Set<Integer> eosIds() {
        return new TreeSet<>(directory.generation().eosIds());
    }

    /**
     * How text is generated.
     *
     * @param stopStrings texts that end the output and are not part of it
     */
    public record GenerateOptions(int maxNewTokens, SamplingConfig sampling, List<String> stopStrings) {
        public GenerateOptions {
            if (maxNewTokens < 1) {
                throw new IllegalArgumentException("--max-new-tokens " + maxNewTokens + ": must be at least 1");
            }
        }

        /** These options with at most {@code room} new tokens. */
        public GenerateOptions within(int room) {
            return room >= maxNewTokens ? this : new GenerateOptions(room, sampling, stopStrings);
        }

        /** The likeliest token each time. */
        public static GenerateOptions greedy(int maxNewTokens) {
            return new GenerateOptions(maxNewTokens, SamplingConfig.GREEDY, List.of());
        }
    }

    /** Continues {@code prompt} (special tokens added as the tokenizer does) under an adapter or {@link #BASE}. */
    public String generate(String adapter, String prompt, GenerateOptions options) throws IOException {
        StringBuilder out = new StringBuilder();
        generate(adapter, tokenizer(adapter).encode(prompt, true), options, out::append);
        return out.toString();
    }

    /** Continues token ids, passing text on as soon as it is certain; returns the number of new tokens. */
    public int generate(String adapter, int[] prompt, GenerateOptions options, Consumer<String> onText)
            throws IOException {
        try (Generator generator = new Generator(decoder, prompt.length + options.maxNewTokens())) {
            return stream(generator::generate, adapter, prompt, options, piece -> {
                onText.accept(piece);
                return true;
            });
        }
    }

    /** Tokens of a generator as text. */
    int stream(Generator.Continuation continuation, String adapter, int[] prompt, GenerateOptions options,
            Predicate<String> onText) throws IOException {
        Set<Integer> eos = eosIds();
        GeneratedText text = new GeneratedText(tokenizer(adapter), options.stopStrings(), eos, onText);
        int[] made = continuation.generate(prompt, options.maxNewTokens(), options.sampling(), use(adapter), eos,
                text::accept);
        text.finish();
        return made.length;
    }

    /** Takes the texts of a batch as they come, rows in turn. */
    @FunctionalInterface
    public interface RowText {
        /** The next piece of a row's text. */
        void text(int row, String piece);

        /** Nothing more comes of a row; called once for each, when it ends. */
        default void ended(int row) {
        }
    }

    /**
     * Continues several prompts in one batch, each under an adapter of its own or {@link #BASE}: the weights are read once
     * a token for all of them. Each row's text is the one that {@link #generate(String, String, GenerateOptions)} gives,
     * draws included, up to rounding; so rows of one prompt and adapter have the same text, also where it is drawn.
     *
     * <pre>{@code
     * List<String> texts = lm.generate(List.of("base", "pirate"), List.of("Hello", "Hello"), GenerateOptions.greedy(40));
     * }</pre>
     *
     * @param adapters a name a row
     * @param prompts as many
     * @return the texts in the order of rows
     * @throws IllegalArgumentException if there are no rows, or not as many adapters as prompts, or a row (counted from 0)
     *         is empty or too long for the model
     */
    public List<String> generate(List<String> adapters, List<String> prompts, GenerateOptions options)
            throws IOException {
        TextBatch.check(adapters, prompts);
        List<int[]> ids = new ArrayList<>();
        for (int i = 0; i < prompts.size(); i++) {
            ids.add(tokenizer(adapters.get(i)).encode(prompts.get(i), true));
        }
        List<StringBuilder> texts = ids.stream().map(_ -> new StringBuilder()).toList();
        generate(adapters, ids, options, (row, piece) -> texts.get(row).append(piece));
        return texts.stream().map(StringBuilder::toString).toList();
    }

    /**
     * The same of token ids, passing text on as soon as it is certain. Where an adapter of this model has an embedding, a
     * head or norms of its own, of which a batch has one, rows of the same adapter are a batch each.
     *
     * @return the number of new tokens of each row
     */
    public int[] generate(List<String> adapters, List<int[]> prompts, GenerateOptions options, RowText onText)
            throws IOException {
        return new TextBatch(this, adapters, prompts, options, onText).write();
    }

    @Override
    public void close() {
        adapters.values().forEach(Adapter::close);
        tokenizers.values().forEach(Tokenizer::close);
        directory.close();
    }
}
