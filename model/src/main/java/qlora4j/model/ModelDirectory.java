package qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.lang.System.Logger.Level;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import qlora4j.safetensors.SafetensorsModel;

/**
 * A model as Hugging Face transformers saves it: {@code config.json}, {@code tokenizer.json} and their like, and weights
 * in safetensors files. Opening it reads the configuration and sees whether the files are there; the tokenizer and the
 * weights are opened when first asked for, and closed with the directory.
 */
public final class ModelDirectory implements AutoCloseable {
    private static final System.Logger LOG = System.getLogger(ModelDirectory.class.getName());
    private static final String SAFETENSORS = ".safetensors";
    private static final String INDEX = ".safetensors.index.json";

    private final Path path;
    private final JsonFile configFile;
    private final DecoderConfig config;
    private final GenerationConfig generation;
    private final List<String> warnings = new ArrayList<>();
    private Tokenizer tokenizer;
    private AddedTokens added;
    private SafetensorsModel weights;
    private boolean closed;

    private ModelDirectory(Path path) throws IOException {
        this.path = path;
        this.configFile = JsonFile.read(path.resolve(DecoderConfig.FILE));
        this.config = DecoderConfig.of(configFile);
        this.generation = GenerationConfig.read(path);
        for (String setting : generation.ignored()) {
            warn(setting + " of " + GenerationConfig.FILE + " is not supported and is left out of account");
        }
    }

    /**
     * Opens a model directory.
     *
     * @throws ModelFormatException if a file is missing or malformed, or asks for what is not supported
     * @throws IOException if a file cannot be read
     */
    public static ModelDirectory open(Path path) throws IOException {
        if (!Files.isDirectory(path)) {
            throw new ModelFormatException(path, Files.exists(path)
                    ? "this is a file; the directory of a model is expected"
                    : "there is no such directory");
        }
        requireFile(path, DecoderConfig.FILE, "the directory of a Hugging Face model is expected");
        requireWeights(path);
        if (!Files.exists(path.resolve("tokenizer.model"))) {
            requireFile(path, Tokenizer.FILE, "copy it from where the model comes from");
        }
        return new ModelDirectory(path);
    }

    private static void requireFile(Path directory, String name, String advice) throws ModelFormatException {
        if (!Files.exists(directory.resolve(name))) {
            throw new ModelFormatException(directory, "there is no " + name + "; " + advice);
        }
    }

    private static void requireWeights(Path directory) throws IOException {
        if (Files.exists(directory.resolve(SafetensorsModel.DEFAULT_STEM + SAFETENSORS))
                || Files.exists(directory.resolve(SafetensorsModel.DEFAULT_STEM + INDEX))) {
            return;
        }
        String wanted = "there is neither " + SafetensorsModel.DEFAULT_STEM + SAFETENSORS + " nor "
                + SafetensorsModel.DEFAULT_STEM + INDEX;
        if (Files.exists(directory.resolve("adapter_config.json"))) {
            throw new ModelFormatException(directory,
                    wanted + ": this is an adapter; name its base model as the model");
        }
        try (Stream<Path> files = Files.list(directory)) {
            Optional<Path> pickle = files.filter(f -> f.getFileName().toString().matches(".*\\.(bin|pt|pth)")).sorted()
                    .findFirst();
            if (pickle.isPresent()) {
                throw new ModelFormatException(directory, wanted + ", only PyTorch files such as "
                        + pickle.get().getFileName() + ", which can run code when they are read: load the model once"
                        + " with transformers and save_pretrained(..., safe_serialization=True)");
            }
        }
        throw new ModelFormatException(directory, wanted + "; copy them from where the model comes from");
    }

    private void warn(String message) {
        String line = path + ": " + message;
        warnings.add(line);
        LOG.log(Level.WARNING, line);
    }

    /** Where the model lies. */
    public Path path() {
        return path;
    }

    /** What {@code config.json} says. */
    public DecoderConfig config() {
        return config;
    }

    /** The whole {@code config.json}, a copy: the source for {@link DecoderConfig#toJson}. */
    public ObjectNode configJson() {
        return configFile.fields().deepCopy();
    }

    /** What {@code generation_config.json} says. */
    public GenerationConfig generation() {
        return generation;
    }

    /**
     * The tokenizer, opened at the first call. A warning is logged, and kept, where it does not fit the rest: its EOS is
     * not among those that end a text, or it has more tokens than the embedding has rows.
     *
     * @throws ModelFormatException if it is missing or malformed
     * @throws IOException if a file cannot be read
     */
    public synchronized Tokenizer tokenizer() throws IOException {
        checkOpen();
        if (tokenizer == null) {
            tokenizer = Tokenizer.open(path);
            tokenizer.eos().ifPresent(this::compareEos);
            if (tokenizer.vocabSize() > config.vocab()) {
                warn("the tokenizer has ids up to " + (tokenizer.vocabSize() - 1) + ", the embedding only "
                        + config.vocab() + " rows: texts with tokens beyond them cannot be used");
            }
        }
        return tokenizer;
    }

    /**
     * Adds special tokens to the tokenizer, which the model's own files do not learn of.
     *
     * @return their ids, also of those that the tokenizer had
     */
    public synchronized List<Integer> addTokens(List<String> texts) throws IOException {
        checkOpen();
        added = AddedTokens.to(path, texts);
        use(added.open());
        return added.ids();
    }

    /** What {@link #addTokens} made, to be saved beside an adapter. */
    public synchronized Optional<AddedTokens> added() {
        return Optional.ofNullable(added);
    }

    /** Uses the tokenizer of another directory: that of an adapter with tokens of its own. */
    public synchronized void useTokenizer(Path directory) throws IOException {
        checkOpen();
        use(Tokenizer.open(directory));
    }

    private void use(Tokenizer other) {
        if (tokenizer != null) {
            tokenizer.close();
        }
        tokenizer = other;
    }

    private void compareEos(SpecialToken eos) {
        if (eos.id().isEmpty()) {
            warn("the eos_token \"" + eos.text() + "\" of " + Tokenizer.CONFIG_FILE + " is not in the vocabulary;"
                    + " generation ends at " + generation.eosIds());
        } else if (!generation.isEos(eos.id().getAsInt())) {
            warn("the eos_token \"" + eos.text() + "\" (" + eos.id().getAsInt() + ") of " + Tokenizer.CONFIG_FILE
                    + " is not among the eos_token_id of " + GenerationConfig.FILE + " and " + DecoderConfig.FILE + ", "
                    + generation.eosIds() + ", which count");
        }
    }

    /**
     * The EOS that training appends to a completion; see {@link GenerationConfig#trainingEos}.
     *
     * @throws IOException if the tokenizer cannot be opened
     */
    public int trainingEos() throws IOException {
        return generation.trainingEos(tokenizer().eosId());
    }

    /**
     * The weights, mapped at the first call and checked against the configuration: every tensor there, none too many,
     * each of its shape.
     *
     * @throws ModelFormatException if a tensor is missing, unexpected or wrong, by name
     * @throws IOException if a file is malformed or cannot be read
     */
    public synchronized SafetensorsModel weights() throws IOException {
        checkOpen();
        if (weights == null) {
            SafetensorsModel opened = SafetensorsModel.open(path);
            try {
                ModelTensors.check(config, opened).require(path);
            } catch (ModelFormatException | RuntimeException e) {
                opened.close();
                throw e;
            }
            weights = opened;
        }
        return weights;
    }

    /** Unmaps the weights, whose pages would else count as the process's memory; {@link #weights} opens them again. */
    public synchronized void closeWeights() {
        if (weights != null) {
            weights.close();
            weights = null;
        }
    }

    /** The tensors that the configuration describes; see {@link ModelTensors#expected}. */
    public Map<String, long[]> expectedTensors() {
        return ModelTensors.expected(config);
    }

    /** The warnings so far, which were logged too. */
    public synchronized List<String> warnings() {
        return List.copyOf(warnings);
    }

    private void checkOpen() {
        if (closed) {
            throw new IllegalStateException("the model directory " + path + " is closed");
        }
    }

    @Override
    public synchronized void close() {
        closed = true;
        if (tokenizer != null) {
            tokenizer.close();
        }
        closeWeights();
    }
}
