package qlora4j.gguf;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ModelDirectory;
import qlora4j.model.ModelTensors;
import qlora4j.model.RopeConfig;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Makes a GGUF file of a Hugging Face model directory, as llama.cpp's converter does: its names, its metadata, its order
 * of rows; matrices in one type, vectors in float32. A model in 4 bits is dequantized.
 */
public final class GgufExport {
    /** The types that a model can be written in. */
    public static final Set<GgmlType> TYPES = Set
            .copyOf(EnumSet.of(GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0));
    private static final String MISTRAL = "mistral";
    /** The version of the block formats (GGML_QNT_VERSION). */
    private static final int QUANTIZATION_VERSION = 2;

    private GgufExport() {
    }

    /**
     * What was written.
     *
     * @param architecture llama.cpp's name for it
     * @param tensors how many
     * @param bytes of the file
     * @param notes what a user should know
     */
    public record Report(String architecture, int tensors, long bytes, List<String> notes) {
        public Report {
            notes = List.copyOf(notes);
        }
    }

    /** The name that llama.cpp has for an architecture: to it mistral is llama. */
    static String architecture(String modelType) {
        return modelType.equals(MISTRAL) ? "llama" : modelType;
    }

    /**
     * Writes the model in {@code source} to {@code target}.
     *
     * @param type of the matrices: one of {@link #TYPES}
     * @param pre what {@code tokenizer.ggml.pre} is to be; null to find it
     * @param backend dequantizes a model in 4 bits
     * @throws IOException if a file cannot be read or written, the target exists, or the model or its tokenizer is one
     *     that llama.cpp does not have
     */
    public static Report model(ModelDirectory source, Path target, GgmlType type, String pre, Backend backend)
            throws IOException {
        if (!TYPES.contains(type)) {
            throw new IllegalArgumentException(type + " cannot be written; " + TYPES + " can");
        }
        refuseExisting(target);
        DecoderConfig config = source.config();
        List<String> notes = new ArrayList<>();
        GgufWriter out = new GgufWriter();
        metadata(source, type, out, notes);
        TokenizerExport.write(source, config.vocab(), pre, out);
        if (config.rope().type() == RopeConfig.Type.LLAMA3) {
            float[] factors = RopeScaling.factors(config.rope(), config.headDim());
            out.tensor(TensorNames.ROPE_FREQUENCIES, GgmlType.F32, new long[]{factors.length},
                    sink -> sink.write(Tensor.of(factors, factors.length).data()));
        }
        SafetensorsModel weights = source.weights();
        int tensors = 0;
        int halves = 0;
        for (Map.Entry<String, long[]> e : source.expectedTensors().entrySet()) {
            String name = e.getKey();
            String ggufName = TensorNames.gguf(name);
            if (ggufName == null) {
                throw new IOException(source.path() + ": tensor " + name + " has no name in GGUF");
            }
            RotaryLayout layout = RotaryLayout.of(config.architecture().modelType(), name, config.heads(),
                    config.kvHeads(), config.headDim());
            GgmlType as = TensorWriter.type(type, e.getValue());
            halves += e.getValue().length > 1 && as != type ? 1 : 0;
            out.tensor(ggufName, as, e.getValue(),
                    sink -> TensorWriter.write(name, tensor(weights, name, backend), layout, as, sink));
            tensors++;
        }
        if (halves > 0) {
            notes.add(halves + " matrices have rows that are no multiple of " + type.blockElements()
                    + " and are written as F16");
        }
        out.write(target);
        return new Report(architecture(config.architecture().modelType()), tensors, Files.size(target), notes);
    }

    static void refuseExisting(Path target) throws IOException {
        if (Files.exists(target)) {
            throw new FileAlreadyExistsException(target.toString(), null, "it exists already; give another name");
        }
    }

    private static void metadata(ModelDirectory source, GgmlType type, GgufWriter out, List<String> notes)
            throws IOException {
        DecoderConfig c = source.config();
        String modelType = c.architecture().modelType();
        String architecture = architecture(modelType);
        String prefix = architecture + ".";
        String name = name(source.path().toRealPath());
        out.text(ConfigImport.ARCHITECTURE, architecture).text(GgufImport.TYPE, "model").text(ConfigImport.NAME, name);
        if (modelType.equals(MISTRAL) && !name.toLowerCase(Locale.ROOT).contains(MISTRAL)) {
            out.text("general.basename", MISTRAL);
        }
        out.uint32("general.file_type", fileType(type)).uint32("general.quantization_version", QUANTIZATION_VERSION);
        out.uint32(prefix + "vocab_size", c.vocab()).uint32(prefix + "context_length", c.maxPositions());
        out.uint32(prefix + "embedding_length", c.hidden()).uint32(prefix + "block_count", c.layers());
        out.uint32(prefix + "feed_forward_length", c.intermediate());
        out.uint32(prefix + "attention.head_count", c.heads()).uint32(prefix + "attention.head_count_kv", c.kvHeads());
        out.uint32(prefix + "attention.key_length", c.headDim()).uint32(prefix + "attention.value_length", c.headDim());
        out.float32(prefix + "attention.layer_norm_rms_epsilon", c.rmsNormEps());
        out.uint32(prefix + "rope.dimension_count", c.headDim()).float32(prefix + "rope.freq_base", c.rope().theta());
        if (c.slidingWindow() > 0) {
            out.uint32(prefix + "attention.sliding_window", c.slidingWindow());
            notes.add("llama.cpp does not apply the sliding window of " + c.slidingWindow()
                    + " positions: longer texts may differ");
        }
        if (c.rope().type() != RopeConfig.Type.DEFAULT && (c.rope().type() != RopeConfig.Type.LLAMA3
                || !architecture.equals("llama"))) {
            throw new IOException(source.path() + ": rope scaling of type " + c.rope().type() + " in a " + modelType
                    + " model has no form in GGUF that is known here");
        }
        if (c.quantization() != null) {
            notes.add("the model is in 4 bits: what is written is its dequantized weights");
        }
    }

    /** The directory's name; in the hub's cache that is a commit, and the model's name stands above it. */
    private static String name(Path real) {
        Path snapshots = real.getParent();
        if (snapshots != null && snapshots.endsWith("snapshots") && snapshots.getParent() != null) {
            return snapshots.getParent().getFileName().toString().replaceFirst("^models--.*--", "");
        }
        return real.getFileName().toString();
    }

    /** llama.h's {@code llama_ftype}. */
    private static int fileType(GgmlType type) {
        return switch (type) {
            case F32 -> 0;
            case F16 -> 1;
            case Q8_0 -> 7;
            case BF16 -> 32;
            default -> throw new IllegalArgumentException(type + " cannot be written");
        };
    }

    private static Tensor tensor(SafetensorsModel weights, String name, Backend backend) throws IOException {
        if (!ModelTensors.isPacked(weights, name)) {
            return weights.tensor(name);
        }
        try (Stream stream = backend.openStream()) {
            QuantizedTensor w = Bnb4bit.read(weights, name);
            Tensor dense = Tensor.zeros(DType.F32, w.shape());
            Blockwise.dequantize(stream, w, dense);
            return dense;
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }
}
