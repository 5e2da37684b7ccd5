package qlora4j.gguf;

import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.gguf.GgufException.Kind;
import qlora4j.model.DecoderConfig;
import qlora4j.model.GenerationConfig;
import qlora4j.model.ModelTensors;
import qlora4j.model.Tokenizer;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;

/**
 * Makes a Hugging Face model directory of a GGUF file: weights in safetensors, configuration, tokenizer, chat template.
 * Quantized weights are dequantized; the rows of llama's and mistral's query and key projections are put back into
 * Hugging Face's order. Tensors are read and written a few rows at a time.
 */
public final class GgufImport {
    static final String TYPE = "general.type";
    static final String ADAPTER = "adapter";
    private static final String SPLITS = "split.count";
    private static final JsonMapper JSON = new JsonMapper();
    private static final String WEIGHTS = SafetensorsModel.DEFAULT_STEM + ".safetensors";

    private GgufImport() {
    }

    /**
     * What may be chosen; null leaves it to the file.
     *
     * @param dtype of the weights: float32, float16 or bfloat16; else the file's own where its matrices are in one of
     *     these, else float32, which holds dequantized values exactly
     * @param pre the name of the way in which a byte-level tokenizer cuts texts into words
     * @param base the directory of the base model, which an adapter needs
     */
    public record Options(DType dtype, String pre, Path base) {
        /** Nothing chosen. */
        public static final Options NONE = new Options(null, null, null);
    }

    /**
     * What was imported.
     *
     * @param modelType the {@code model_type} of the configuration, or {@code adapter}
     * @param dtype of the tensors that were written
     * @param tensors how many of them
     * @param bytes of the file of the weights
     * @param sources how many tensors the file had of each type
     * @param notes what a user should know
     */
    public record Report(String modelType, DType dtype, int tensors, long bytes, Map<GgmlType, Integer> sources,
            List<String> notes) {
        public Report {
            sources = Map.copyOf(sources);
            notes = List.copyOf(notes);
        }
    }

    /**
     * Imports {@code file}, a model or a LoRA adapter, into the directory {@code target}, which is made.
     *
     * @throws GgufException if the file is malformed, or holds what is not supported
     * @throws IOException if a file cannot be read or written, or the target holds a model
     */
    public static Report run(Path file, Path target, Options options) throws IOException {
        try (Gguf gguf = Gguf.open(file)) {
            if (gguf.metadata().text(TYPE, "model").equals(ADAPTER)) {
                return AdapterImport.run(gguf, target, options);
            }
            return model(gguf, target, options);
        }
    }

    private static Report model(Gguf gguf, Path target, Options options) throws IOException {
        Path file = gguf.file();
        if (gguf.metadata().integer(SPLITS, 1) > 1) {
            throw new GgufException(Kind.UNSUPPORTED, file, "this is one of " + gguf.metadata().integer(SPLITS)
                    + " parts of a model; join them with llama.cpp's llama-gguf-split --merge first");
        }
        ConfigImport configs = new ConfigImport(gguf);
        Vocabulary vocabulary = new Vocabulary(file, gguf.metadata());
        DType wanted = options.dtype != null ? options.dtype : ownType(gguf);
        ObjectNode json = configs.config(vocabulary, wanted);
        DecoderConfig config = DecoderConfig.of(file, json);
        if (vocabulary.size() > config.vocab()) {
            throw gguf.metadata().wrong(Vocabulary.TOKENS, "no more than the " + config.vocab()
                    + " rows of the embedding");
        }
        Map<String, GgufTensor> tensors = tensors(gguf, config);
        List<String> notes = new ArrayList<>();
        claim(target, List.of(DecoderConfig.FILE, WEIGHTS, WEIGHTS + ".index.json"), "a model");
        TokenizerImport.write(vocabulary, target, configs.maxPositions(), options.pre, notes);
        // The library that will read it has the last word on the tokenizer.
        Tokenizer.open(target).close();
        if (ConfigImport.ends(vocabulary).isEmpty()) {
            notes.add("the file names no token that ends a text: generation will only end at its limit");
        }
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        Map<GgmlType, Integer> sources = new EnumMap<>(GgmlType.class);
        tensors.forEach((name, tensor) -> {
            RotaryLayout layout = RotaryLayout.of(configs.modelType(), name, config.heads(), config.kvHeads(),
                    config.headDim());
            sources.merge(tensor.type(), 1, Integer::sum);
            writer.add(name, wanted, sink -> TensorReader.write(gguf, tensor, layout, wanted, sink), tensor.shape());
        });
        writer.write(target.resolve(WEIGHTS));
        write(target.resolve(GenerationConfig.FILE), configs.generation(vocabulary));
        // Last: a directory without a configuration is not taken for a model.
        write(target.resolve(DecoderConfig.FILE), json);
        return new Report(configs.modelType(), wanted, tensors.size(), Files.size(target.resolve(WEIGHTS)), sources,
                notes);
    }

    private static void write(Path file, ObjectNode json) throws IOException {
        AtomicFile.write(file, JSON.writerWithDefaultPrettyPrinter().writeValueAsBytes(json));
    }

    /** Makes the directory, and refuses one that holds any of these files. */
    static void claim(Path target, List<String> files, String what) throws IOException {
        Files.createDirectories(target);
        for (String name : files) {
            if (Files.exists(target.resolve(name))) {
                throw new FileAlreadyExistsException(target.resolve(name).toString(), null,
                        what + " is there already; give another directory");
            }
        }
    }

    private static DType ownType(Gguf gguf) {
        Map<DType, Long> sizes = new EnumMap<>(DType.class);
        for (GgufTensor t : gguf.tensors().values()) {
            if (t.shape().length > 1 && t.type().plain() == null) {
                return DType.F32;
            }
            if (t.shape().length > 1) {
                sizes.merge(t.type().plain(), t.elements(), Long::sum);
            }
        }
        return sizes.size() == 1 ? sizes.keySet().iterator().next() : DType.F32;
    }

    /** The tensors that the configuration describes, by their Hugging Face names; none missing, none too many. */
    private static Map<String, GgufTensor> tensors(Gguf gguf, DecoderConfig config) throws GgufException {
        Map<String, GgufTensor> unused = new LinkedHashMap<>(gguf.tensors());
        unused.remove(TensorNames.ROPE_FREQUENCIES);
        Map<String, GgufTensor> tensors = new LinkedHashMap<>();
        for (Map.Entry<String, long[]> e : ModelTensors.expected(config).entrySet()) {
            String name = TensorNames.gguf(e.getKey());
            GgufTensor tensor = name == null ? null : unused.remove(name);
            if (tensor == null) {
                throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "there is no tensor " + name + " for "
                        + e.getKey() + ", which the architecture " + config.architecture().modelType() + " has");
            }
            if (!Arrays.equals(tensor.shape(), e.getValue())) {
                throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "tensor " + tensor + ": the metadata ask for "
                        + Arrays.toString(e.getValue()));
            }
            if (!tensor.type().isReadable()) {
                throw new GgufException(Kind.UNSUPPORTED, gguf.file(), "tensor " + GgufException.quote(name)
                        + " is of type " + tensor.type() + ", which cannot be read; readable are "
                        + GgmlType.readable().stream().sorted().toList()
                        + ". llama.cpp's llama-quantize --allow-requantize makes one of them");
            }
            tensors.put(e.getKey(), tensor);
        }
        if (!unused.isEmpty()) {
            throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "tensors that the architecture "
                    + config.architecture().modelType() + " does not have: "
                    + String.join(", ", unused.keySet().stream()
                            .limit(8).toList()));
        }
        return tensors;
    }
}
