package qlora4j.lora;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * A LoRA adapter as PEFT 0.21 saves it: a directory with {@value #CONFIG} and {@value #WEIGHTS}, whose tensors are
 * named {@code base_model.model.<module path>.lora_A.weight}, {@code .lora_B.weight} and, with DoRA,
 * {@code .lora_magnitude_vector}; trained biases and modules that are saved whole keep the base model's names behind
 * {@code base_model.model.}, and rows of {@code trainable_token_indices} are {@code .token_adapter.trainable_tokens_delta}
 * of the embedding or the head. PEFT's names in memory, with its adapter's name {@code default} before {@code weight}, are
 * read too.
 *
 * <p>An open adapter maps its file: the tensors are views and can be used until it is closed.
 */
public final class PeftAdapter implements AutoCloseable {
    /** The configuration's file. */
    public static final String CONFIG = "adapter_config.json";
    /** The weights' file. */
    public static final String WEIGHTS = "adapter_model.safetensors";

    private static final String PICKLED = "adapter_model.bin";
    private static final String PREFIX = "base_model.model.";
    private static final String A = ".lora_A";
    private static final String B = ".lora_B";
    private static final String MAGNITUDE = ".lora_magnitude_vector";
    private static final List<String> PARTS = List.of(A, B, MAGNITUDE);
    private static final String SUFFIX = ".weight";
    private static final String IN_MEMORY_SUFFIX = ".default.weight";
    private static final String BIAS = ".bias";
    /** Between the names of a module and its bias, where it has an adapter. */
    private static final String BASE_LAYER = ".base_layer";
    private static final String SAVED_IN_MEMORY = ".modules_to_save";
    /** Written with an adapter without being trained, where the vocabulary has grown. */
    private static final Set<String> EMBEDDINGS = Set.of("model.embed_tokens.weight", "lm_head.weight");
    /** What a module of {@code trainable_token_indices} is wrapped in, and the rows of its own. */
    private static final String TOKEN_ADAPTER = ".token_adapter";
    private static final String ROWS = TOKEN_ADAPTER + ".trainable_tokens_delta";
    private static final Set<DType> DTYPES = Collections.unmodifiableSet(EnumSet.range(DType.F64, DType.F16));
    private static final System.Logger LOG = System.getLogger(PeftAdapter.class.getName());

    private final Path directory;
    private final Safetensors file;
    private final LoraConfig config;
    private final Map<String, AdapterWeights> modules;
    private final Map<String, Tensor> whole;
    private final Map<String, Tensor> tokens;

    private PeftAdapter(Path directory, Safetensors file, LoraConfig config, Map<String, AdapterWeights> modules,
            Map<String, Tensor> whole, Map<String, Tensor> tokens) {
        this.directory = directory;
        this.file = file;
        this.config = config;
        this.modules = Collections.unmodifiableMap(modules);
        this.whole = Collections.unmodifiableMap(whole);
        this.tokens = Collections.unmodifiableMap(tokens);
    }

    /**
     * Opens an adapter's directory. Fields of its configuration that PEFT 0.21 does not have are logged as a warning.
     *
     * @throws IOException naming the file and the field or tensor, if a file is missing or malformed, if the
     *     configuration asks for something that changes the numbers and is not supported, if a tensor is none of an
     *     adapter's, lacks its partner, has another shape than the rank asks for, or belongs to no target module
     */
    public static PeftAdapter open(Path directory) throws IOException {
        Path configFile = directory.resolve(CONFIG);
        Path weights = directory.resolve(WEIGHTS);
        if (!Files.isRegularFile(configFile)) {
            throw new IOException(directory + ": there is no " + CONFIG + "; give the directory of a PEFT adapter");
        }
        if (!Files.isRegularFile(weights)) {
            throw new IOException(directory + ": there is no " + WEIGHTS + (Files.exists(directory.resolve(PICKLED))
                    ? ", only " + PICKLED + ", a pickle, which is not read: convert it by loading the adapter in PEFT"
                            + " and calling save_pretrained, which writes safetensors"
                    : ""));
        }
        PeftConfig.Read read = PeftConfig.read(configFile, Files.readAllBytes(configFile));
        if (!read.unknown().isEmpty()) {
            LOG.log(System.Logger.Level.WARNING, configFile + ": fields that are not known here are ignored: "
                    + String.join(", ", read.unknown()));
        }
        Safetensors file = Safetensors.open(weights);
        try {
            Map<String, Tensor> whole = new LinkedHashMap<>();
            Map<String, Tensor> tokens = new LinkedHashMap<>();
            Map<String, AdapterWeights> modules = modules(file, weights, whole, tokens);
            LoraConfig config = read.config(modules.keySet());
            dropTied(config.tokens(), tokens);
            check(weights, config, modules, whole);
            checkTokens(weights, config.tokens(), tokens);
            tokens.forEach((module, rows) -> whole.computeIfPresent(module + SUFFIX,
                    (_, table) -> replaced(table, config.tokens().of(module), rows)));
            return new PeftAdapter(directory, file, config, modules, whole, tokens);
        } catch (IllegalArgumentException e) {
            file.close();
            String where = e.getMessage().startsWith(weights.toString()) ? "" : configFile + ": ";
            throw new IOException(where + e.getMessage(), e);
        } catch (IOException | RuntimeException | Error e) {
            file.close();
            throw e;
        }
    }

    /** The adapters' tensors by module; the base model's own that were trained go to {@code whole} by their names. */
    private static Map<String, AdapterWeights> modules(Safetensors file, Path path, Map<String, Tensor> whole,
            Map<String, Tensor> tokens) throws IOException {
        Map<String, Tensor[]> parts = new LinkedHashMap<>();
        for (String name : file.names()) {
            String stem = strip(name, name.endsWith(IN_MEMORY_SUFFIX) ? IN_MEMORY_SUFFIX : SUFFIX);
            String part = PARTS.stream().filter(stem::endsWith).findFirst().orElse("");
            String module = strip(stem, part);
            String rows = strip(name, ".default");
            boolean twice;
            if (name.startsWith(PREFIX) && rows.endsWith(ROWS)) {
                twice = tokens.put(strip(rows, ROWS).substring(PREFIX.length()), file.tensor(name)) != null;
            } else if (part.isEmpty() || stem.equals(name) && !part.equals(MAGNITUDE)
                    || !module.startsWith(PREFIX)) {
                twice = whole.put(wholeName(name, path), file.tensor(name)) != null;
            } else {
                Tensor[] own = parts.computeIfAbsent(module.substring(PREFIX.length()), _ -> new Tensor[PARTS.size()]);
                twice = own[PARTS.indexOf(part)] != null;
                own[PARTS.indexOf(part)] = file.tensor(name);
            }
            if (twice) {
                throw new IOException(path + ": tensor " + name
                        + " is there twice, with and without the adapter's name");
            }
        }
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor[]> entry : parts.entrySet()) {
            Tensor[] own = entry.getValue();
            for (int i = 0; i < 2; i++) {
                if (own[i] == null) {
                    throw new IOException(path + ": tensor " + name(entry.getKey(), PARTS.get(i))
                            + " is missing, though its partner is there");
                }
            }
            modules.put(entry.getKey(), new AdapterWeights(own[0], own[1], own[2]));
        }
        return modules;
    }

    /** The base model's name of a tensor that is no adapter's: a bias, or a module that was trained whole. */
    private static String wholeName(String name, Path path) throws IOException {
        String base = name.startsWith(PREFIX) ? name.substring(PREFIX.length()) : "";
        boolean bias = base.endsWith(BIAS);
        if (base.contains("lora_embedding_")) {
            throw new IOException(path + ": tensor " + name
                    + " is an adapter of an embedding, which is not supported: adapters of linear layers are");
        }
        if (base.contains("lora_") || !bias && !base.endsWith(SUFFIX)) {
            throw new IOException(path + ": tensor " + name + " is not part of a LoRA adapter: names are " + PREFIX
                    + "<module path>" + A + SUFFIX + ", " + B + SUFFIX + ", " + MAGNITUDE
                    + ", or a trained bias or module of the base model");
        }
        return strip(strip(strip(strip(base, bias ? BIAS : base.endsWith(IN_MEMORY_SUFFIX) ? IN_MEMORY_SUFFIX : SUFFIX),
                BASE_LAYER), SAVED_IN_MEMORY), TOKEN_ADAPTER) + (bias ? BIAS : SUFFIX);
    }

    private static String strip(String text, String end) {
        return text.endsWith(end) ? text.substring(0, text.length() - end.length()) : text;
    }

    /** PEFT writes the rows of a tied head beside the embedding's, which they are. */
    private static void dropTied(TrainableTokens config, Map<String, Tensor> tokens) {
        Tensor head = tokens.get(TrainableTokens.HEAD);
        Tensor embedding = tokens.get(TrainableTokens.EMBEDDING);
        if (head != null && embedding != null && config.of(TrainableTokens.HEAD).isEmpty() && same(head, embedding)) {
            tokens.remove(TrainableTokens.HEAD);
        }
    }

    /** Whether two tensors are equal in type, shape and bits. */
    public static boolean same(Tensor a, Tensor b) {
        return a.dtype() == b.dtype() && a.hasShape(b.shape()) && a.data().mismatch(b.data()) < 0;
    }

    /** A table with the rows of its own. */
    private static Tensor replaced(Tensor table, List<Integer> ids, Tensor rows) {
        Tensor copy = Tensor.zeros(table.dtype(), table.shape()).copyFrom(table);
        for (int i = 0; i < ids.size(); i++) {
            int id = ids.get(i);
            if (id < table.rows()) {
                copy.rows(id, id + 1).copyFrom(rows.rows(i, i + 1));
            }
        }
        return copy;
    }

    private static void checkTokens(Path file, TrainableTokens config, Map<String, Tensor> tokens) {
        config.indices().forEach((module, ids) -> {
            Tensor rows = tokens.get(module);
            if (rows == null || rows.rank() != 2 || rows.dim(0) != ids.size() || !DTYPES.contains(rows.dtype())) {
                throw new IllegalArgumentException(file + ": tensor " + PREFIX + module + ROWS + " is "
                        + (rows == null ? "missing" : rows) + "; trainable_token_indices asks for [" + ids.size()
                        + ", hidden], one of " + DTYPES);
            }
        });
        for (String module : tokens.keySet()) {
            if (config.of(module).isEmpty()) {
                throw new IllegalArgumentException(file + ": tensor " + PREFIX + module + ROWS
                        + " is there, but the configuration's trainable_token_indices does not ask for it");
            }
        }
    }

    private static String name(String module, String part) {
        return PREFIX + module + part + (part.equals(MAGNITUDE) ? "" : SUFFIX);
    }

    /** Checks an adapter that was read from, or is to be written to, {@code file}. */
    private static void check(Path file, LoraConfig config, Map<String, AdapterWeights> modules,
            Map<String, Tensor> whole) {
        whole.forEach((name, t) -> {
            boolean asked = name.endsWith(BIAS) && config.bias() != LoraConfig.Bias.NONE || EMBEDDINGS.contains(name)
                    || config.modulesToSave().stream().anyMatch(m -> strip(name, SUFFIX).endsWith(m));
            if (!asked || !DTYPES.contains(t.dtype())) {
                throw new IllegalArgumentException(file + ": tensor " + PREFIX + name + (asked
                        ? " is " + t + "; an adapter's tensors are one of " + DTYPES
                        : " is not part of a LoRA adapter: neither bias = " + config.bias() + " nor modules_to_save = "
                                + config.modulesToSave() + " of the configuration asks for it"));
            }
        });
        if (modules.isEmpty()) {
            throw new IllegalArgumentException(file + ": the adapter has no tensors");
        }
        modules.forEach((module, weights) -> {
            Tensor a = weights.a();
            Tensor b = weights.b();
            Tensor m = weights.magnitude();
            int rank = config.rank(module);
            if (a.rank() != 2 || a.dim(0) != rank) {
                throw shape(file, module, A, a, "[r, in]", rank);
            }
            if (b.rank() != 2 || b.dim(1) != rank) {
                throw shape(file, module, B, b, "[out, r]", rank);
            }
            if (config.dora() != (m != null)) {
                throw new IllegalArgumentException(file + ": tensor " + name(module, MAGNITUDE) + (m == null
                        ? " is missing; use_dora asks for it"
                        : " is there, but the configuration has no use_dora"));
            }
            if (m != null && m.size() != b.dim(0)) {
                throw shape(file, module, MAGNITUDE, m, "[out]", rank);
            }
            for (int i = 0; i < PARTS.size(); i++) {
                Tensor t = i == 0 ? a : i == 1 ? b : m;
                if (t != null && !DTYPES.contains(t.dtype())) {
                    throw new IllegalArgumentException(file + ": tensor " + name(module, PARTS.get(i)) + " is " + t
                            + "; an adapter's tensors are one of " + DTYPES);
                }
            }
            if (!config.targets().matches(module, config.modulesToSave())) {
                throw new IllegalArgumentException(file + ": module " + module
                        + " has tensors, but the configuration's target modules [" + config.targets()
                        + "] do not mean it");
            }
        });
    }

    private static IllegalArgumentException shape(Path file, String module, String part, Tensor t, String form,
            int rank) {
        return new IllegalArgumentException(file + ": tensor " + name(module, part) + " is " + t + "; with the rank "
                + rank + " of the configuration it must be " + form);
    }

    /**
     * {@link #write(Path, LoraConfig, Map, Map, Map)} of an adapter without biases, whole modules and tokens.
     */
    public static void write(Path directory, LoraConfig config, Map<String, AdapterWeights> modules)
            throws IOException {
        write(directory, config, modules, Map.of(), Map.of());
    }

    /**
     * Writes an adapter that PEFT 0.21 loads. The same adapter gives the same bytes. The directory is made where it is
     * missing, and each file appears by an atomic rename, the configuration last: a process that is killed meanwhile
     * leaves the old adapter, the new one, or weights without a configuration, which cannot be opened.
     *
     * @param modules by module path, such as {@code model.layers.0.mlp.up_proj}; host tensors
     * @param whole trained biases and modules that are saved whole, by their names in the base model; host tensors
     * @param tokens the rows of {@link LoraConfig#tokens} by module; host tensors
     * @throws IllegalArgumentException if a shape or a name does not fit {@code config}
     * @throws IOException if a file cannot be written
     */
    public static void write(Path directory, LoraConfig config, Map<String, AdapterWeights> modules,
            Map<String, Tensor> whole, Map<String, Tensor> tokens) throws IOException {
        Path configFile = directory.resolve(CONFIG);
        Path weights = directory.resolve(WEIGHTS);
        check(weights, config, modules, whole);
        checkTokens(weights, config.tokens(), tokens);
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        modules.forEach((module, own) -> {
            writer.add(name(module, A), own.a()).add(name(module, B), own.b());
            if (own.magnitude() != null) {
                writer.add(name(module, MAGNITUDE), own.magnitude());
            }
        });
        whole.forEach((name, t) -> {
            String module = strip(name, BIAS);
            boolean wrapped = !module.equals(name) && modules.containsKey(module);
            writer.add(PREFIX + (wrapped ? module + BASE_LAYER + BIAS : name), t);
        });
        tokens.forEach((module, rows) -> writer.add(PREFIX + module + ROWS, rows));
        byte[] json = PeftConfig.write(config, modules.keySet());
        Files.createDirectories(directory);
        if (Files.exists(configFile) && !Arrays.equals(Files.readAllBytes(configFile), json)) {
            Files.delete(configFile);
        }
        writer.write(weights);
        AtomicFile.write(configFile, json);
    }

    /** The directory that was opened. */
    public Path directory() {
        return directory;
    }

    /** The configuration. Where the file gives no list of names as targets, they are the paths of {@link #modules}. */
    public LoraConfig config() {
        return config;
    }

    /** The tensors by module path, such as {@code model.layers.0.mlp.up_proj}, in the order of the file. */
    public Map<String, AdapterWeights> modules() {
        return modules;
    }

    /**
     * Trained biases and modules that were saved whole, by their names in the base model; a whole embedding, which PEFT
     * writes where the vocabulary has grown, has the rows of {@link #tokens} already.
     */
    public Map<String, Tensor> whole() {
        return whole;
    }

    /** Rows of the embedding and of the head in the order of {@link LoraConfig#tokens}, {@code [k, hidden]} by module. */
    public Map<String, Tensor> tokens() {
        return tokens;
    }

    /** Unmaps the file. Closing twice is harmless. */
    @Override
    public void close() {
        file.close();
    }

    @Override
    public String toString() {
        return directory + " (rank " + config.rank() + ", " + modules.size() + " modules)";
    }
}
