package qlora4j.lora;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * A LoRA adapter as PEFT 0.21 saves it: a directory with {@value #CONFIG} and {@value #WEIGHTS}, whose tensors are
 * named {@code base_model.model.<module path>.lora_A.weight} and {@code .lora_B.weight}. PEFT's names in memory, with
 * its adapter's name {@code default} before {@code weight}, are read too.
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
    private static final String SUFFIX = ".weight";
    private static final String IN_MEMORY_SUFFIX = ".default.weight";
    private static final Set<DType> DTYPES = Collections.unmodifiableSet(EnumSet.range(DType.F64, DType.F16));
    private static final System.Logger LOG = System.getLogger(PeftAdapter.class.getName());

    private final Path directory;
    private final Safetensors file;
    private final LoraConfig config;
    private final Map<String, AdapterWeights> modules;

    private PeftAdapter(Path directory, Safetensors file, LoraConfig config, Map<String, AdapterWeights> modules) {
        this.directory = directory;
        this.file = file;
        this.config = config;
        this.modules = modules;
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
            Map<String, AdapterWeights> modules = modules(file, weights);
            LoraConfig config = read.config(modules.keySet());
            check(weights, config, modules);
            return new PeftAdapter(directory, file, config, Collections.unmodifiableMap(modules));
        } catch (IllegalArgumentException e) {
            file.close();
            throw new IOException(e.getMessage(), e);
        } catch (IOException | RuntimeException | Error e) {
            file.close();
            throw e;
        }
    }

    private static Map<String, AdapterWeights> modules(Safetensors file, Path path) throws IOException {
        Map<String, Tensor[]> pairs = new LinkedHashMap<>();
        for (String name : file.names()) {
            String part = strip(name, name.endsWith(IN_MEMORY_SUFFIX) ? IN_MEMORY_SUFFIX : SUFFIX);
            boolean isA = part.endsWith(A);
            String module = strip(part, isA ? A : B);
            if (part.equals(name) || module.equals(part) || !module.startsWith(PREFIX)) {
                throw new IOException(path + ": tensor " + name
                        + " is not part of a LoRA adapter: names are " + PREFIX + "<module path>" + A + SUFFIX + " and "
                        + B + SUFFIX);
            }
            Tensor[] pair = pairs.computeIfAbsent(module.substring(PREFIX.length()), _ -> new Tensor[2]);
            if (pair[isA ? 0 : 1] != null) {
                throw new IOException(path + ": tensor " + name
                        + " is there twice, with and without the adapter's name");
            }
            pair[isA ? 0 : 1] = file.tensor(name);
        }
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor[]> entry : pairs.entrySet()) {
            Tensor[] pair = entry.getValue();
            int missing = Arrays.asList(pair).indexOf(null);
            if (missing >= 0) {
                throw new IOException(path + ": tensor " + name(entry.getKey(), missing == 0 ? A : B)
                        + " is missing, though its partner is there");
            }
            modules.put(entry.getKey(), new AdapterWeights(pair[0], pair[1]));
        }
        return modules;
    }

    private static String strip(String text, String end) {
        return text.endsWith(end) ? text.substring(0, text.length() - end.length()) : text;
    }

    private static String name(String module, String part) {
        return PREFIX + module + part + SUFFIX;
    }

    /** Checks an adapter that was read from, or is to be written to, {@code file}. */
    private static void check(Path file, LoraConfig config, Map<String, AdapterWeights> modules) {
        if (modules.isEmpty()) {
            throw new IllegalArgumentException(file + ": the adapter has no tensors");
        }
        modules.forEach((module, weights) -> {
            Tensor a = weights.a();
            Tensor b = weights.b();
            if (a.rank() != 2 || a.dim(0) != config.rank()) {
                throw shape(file, module, A, a, "[r, in]", config);
            }
            if (b.rank() != 2 || b.dim(1) != config.rank()) {
                throw shape(file, module, B, b, "[out, r]", config);
            }
            for (Tensor t : new Tensor[]{a, b}) {
                if (!DTYPES.contains(t.dtype())) {
                    throw new IllegalArgumentException(file + ": tensor " + name(module, t == a ? A : B) + " is " + t
                            + "; an adapter's tensors are one of " + DTYPES);
                }
            }
            if (!config.allLinear() && !TargetModules.matchesAny(config.targetModules(), module)) {
                throw new IllegalArgumentException(file + ": module " + module
                        + " has tensors, but the configuration's target modules " + config.targetModules()
                        + " do not mean it");
            }
        });
    }

    private static IllegalArgumentException shape(Path file, String module, String part, Tensor t, String form,
            LoraConfig config) {
        return new IllegalArgumentException(file + ": tensor " + name(module, part) + " is " + t + "; with the rank "
                + config.rank() + " of the configuration it must be " + form);
    }

    /**
     * Writes an adapter that PEFT 0.21 loads. The same adapter gives the same bytes. The directory is made where it is
     * missing, and each file appears by an atomic rename, the configuration last: a process that is killed meanwhile
     * leaves the old adapter, the new one, or weights without a configuration, which cannot be opened.
     *
     * @param modules by module path, such as {@code model.layers.0.mlp.up_proj}; host tensors
     * @throws IllegalArgumentException if a shape or a name does not fit {@code config}
     * @throws IOException if a file cannot be written
     */
    public static void write(Path directory, LoraConfig config, Map<String, AdapterWeights> modules)
            throws IOException {
        Path configFile = directory.resolve(CONFIG);
        Path weights = directory.resolve(WEIGHTS);
        check(weights, config, modules);
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        modules.forEach((module, pair) -> writer.add(name(module, A), pair.a()).add(name(module, B), pair.b()));
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
