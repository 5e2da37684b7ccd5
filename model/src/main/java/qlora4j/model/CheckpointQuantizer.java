package qlora4j.model;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.safetensors.AtomicFile;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Writes a model directory again with its linear layers in 4 bits, as transformers and bitsandbytes do. The dense model
 * is read from its files one tensor at a time; the 4-bit one is held until it is written.
 */
public final class CheckpointQuantizer {
    /** Beside weights and configuration, the files of a model directory that are copied where they exist. */
    private static final List<String> COMPANIONS = List.of(Tokenizer.FILE, Tokenizer.CONFIG_FILE, "tokenizer.model",
            "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", ChatTemplates.FILE,
            GenerationConfig.FILE);
    static final String WEIGHTS = SafetensorsModel.DEFAULT_STEM + ".safetensors";
    static final String LAYERS = "model.layers.";
    /** Tensors in one allocation start at multiples of this. */
    private static final long PAD = 64;
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private CheckpointQuantizer() {
    }

    /**
     * One weight that was quantized.
     *
     * @param name of the weight
     * @param parameters elements
     * @param bytes codes and constants, as they are in memory
     * @param meanError mean of {@code |dequantized - weight|}
     * @param maxError the largest of these
     */
    public record Layer(String name, long parameters, long bytes, double meanError, double maxError) {
    }

    /**
     * What became of a model.
     *
     * @param bytesBefore of the files of the weights
     * @param bytesAfter of the file that was written
     * @param layers every weight that was quantized
     */
    public record Report(long bytesBefore, long bytesAfter, List<Layer> layers) {
        public Report {
            layers = List.copyOf(layers);
        }

        /** Parameters that are in 4 bits now. */
        public long parameters() {
            return layers.stream().mapToLong(Layer::parameters).sum();
        }

        /** Bits in which one of them is held, constants included. */
        public double bitsPerParameter() {
            return 8.0 * layers.stream().mapToLong(Layer::bytes).sum() / parameters();
        }

        /** The mean absolute error over all of them. */
        public double meanError() {
            return layers.stream().mapToDouble(l -> l.meanError * l.parameters).sum() / parameters();
        }

        /** The weight with the largest mean absolute error. */
        public Layer worst() {
            return layers.stream().max(Comparator.comparingDouble(Layer::meanError)).orElseThrow();
        }

        /** The weight with the largest single error. */
        public Layer largest() {
            return layers.stream().max(Comparator.comparingDouble(Layer::maxError)).orElseThrow();
        }
    }

    /**
     * Quantizes the linear layers of {@code source} into the directory {@code target}, which is made.
     *
     * @param dtype what weights are cast to first, and what those that stay dense are stored in; null: what
     *         {@code config.json} says, else float32
     * @param onLayer sees each weight as it is done
     * @throws ModelFormatException if the source is in 4 bits already
     * @throws IOException if a file cannot be read or written, or the target holds a model
     */
    public static Report quantize(ModelDirectory source, Path target, QuantConfig config, DType dtype, Backend backend,
            Consumer<Layer> onLayer) throws IOException {
        DecoderConfig decoder = source.config();
        if (decoder.quantization() != null) {
            throw new ModelFormatException(source.path(), "the model is in 4 bits already; give the dense one");
        }
        refuseModel(target);
        Files.createDirectories(target);
        DType wanted = dtype != null ? dtype : decoder.dtype() != null ? decoder.dtype() : DType.F32;
        SafetensorsModel weights = source.weights();
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        List<Layer> layers = new ArrayList<>();
        for (Map.Entry<String, long[]> e : source.expectedTensors().entrySet()) {
            String name = e.getKey();
            long[] shape = e.getValue();
            Tensor tensor = weights.tensor(name);
            if (name.startsWith(LAYERS) && shape.length == 2) {
                Tensor cast = cast(tensor, wanted);
                QuantizedTensor w = quantize(cast, config, backend);
                Layer layer = measure(name, cast, w, backend);
                Bnb4bit.write(writer, name, w);
                layers.add(layer);
                onLayer.accept(layer);
            } else {
                writer.add(name, wanted, sink -> sink.write(cast(tensor, wanted).data()), shape);
            }
        }
        writer.write(target.resolve(WEIGHTS));
        DecoderConfig quantized = decoder.withDtype(wanted)
                .withQuantization(new Quantization4bit(config.type(), config.nested(), wanted, List.of()));
        complete(source, target, quantized.toJson(source.configJson()));
        long before = 0;
        for (Path file : weights.files()) {
            before += Files.size(file);
        }
        return new Report(before, Files.size(target.resolve(WEIGHTS)), layers);
    }

    /** Refuses a directory that holds a model. */
    static void refuseModel(Path target) throws IOException {
        for (String name : List.of(DecoderConfig.FILE, WEIGHTS, WEIGHTS + ".index.json")) {
            if (Files.exists(target.resolve(name))) {
                throw new FileAlreadyExistsException(target.resolve(name).toString(), null,
                        "a model is there already; give another directory");
            }
        }
    }

    /** As below with the tokenizer of the model. */
    static void complete(ModelDirectory source, Path target, ObjectNode config) throws IOException {
        complete(source, null, target, config);
    }

    /**
     * Copies what lies beside the weights, then writes the configuration.
     *
     * @param tokenizer a directory whose files count before the model's own; or null
     */
    static void complete(ModelDirectory source, Path tokenizer, Path target, ObjectNode config) throws IOException {
        for (String name : COMPANIONS) {
            Path from = tokenizer != null && Files.exists(tokenizer.resolve(name)) ? tokenizer : source.path();
            if (Files.exists(from.resolve(name))) {
                Files.copy(from.resolve(name), target.resolve(name), StandardCopyOption.REPLACE_EXISTING);
            }
        }
        // Last: a directory without a configuration is not taken for a model.
        AtomicFile.write(target.resolve(DecoderConfig.FILE),
                MAPPER.writerWithDefaultPrettyPrinter().writeValueAsBytes(config));
    }

    static Tensor cast(Tensor source, DType dtype) {
        return source.dtype() == dtype ? source : Tensor.zeros(dtype, source.shape()).copyFrom(source);
    }

    /** Quantizes on the device; the result is in host memory. */
    static QuantizedTensor quantize(Tensor x, QuantConfig config, Backend backend) {
        long n = x.size();
        long packed = padded(DType.U8.bytes((n + 1) / 2));
        long absmax = padded(DType.F32.bytes(config.blocks(n)));
        long absmax2 = config.nested() ? padded(DType.F32.bytes(config.nestedBlocks(n))) : 0;
        try (Stream stream = backend.openStream();
                Allocation memory = backend.allocate(packed + absmax + absmax2 + PAD + x.bytes(),
                        MemoryUse.WORKSPACE)) {
            QuantizedTensor w = new QuantizedTensor(config, x.dtype(), x.shape(),
                    memory.tensor(0, DType.U8, (n + 1) / 2),
                    memory.tensor(packed, config.nested() ? DType.U8 : DType.F32, config.blocks(n)),
                    config.nested() ? memory.tensor(packed + absmax, DType.F32, config.nestedBlocks(n)) : null,
                    config.nested() ? memory.tensor(packed + absmax + absmax2, DType.F32, 1) : null);
            Tensor device = memory.tensor(packed + absmax + absmax2 + PAD, x.dtype(), x.shape());
            backend.upload(x, device);
            Blockwise.quantize(stream, device, w);
            stream.synchronize();
            return w.toHost(backend);
        }
    }

    private static long padded(long bytes) {
        return Math.ceilDiv(bytes, PAD) * PAD;
    }

    private static Layer measure(String name, Tensor x, QuantizedTensor w, Backend backend) {
        Tensor back = Tensor.zeros(DType.F32, x.shape());
        try (Stream stream = backend.openStream()) {
            if (backend.device().isHost()) {
                Blockwise.dequantize(stream, w, back);
            } else {
                try (Allocation memory = backend.allocate(back.bytes(), MemoryUse.WORKSPACE)) {
                    Tensor device = memory.tensor(0, DType.F32, x.shape());
                    Blockwise.dequantize(stream, w.copyTo(backend), device);
                    backend.download(device, back);
                }
            }
        }
        float[] original = cast(x, DType.F32).toFloats();
        float[] rounded = back.toFloats();
        double sum = 0;
        double max = 0;
        for (int i = 0; i < original.length; i++) {
            double error = Math.abs((double) rounded[i] - original[i]);
            sum += error;
            max = Math.max(max, error);
        }
        return new Layer(name, original.length, w.bytes(), sum / original.length, max);
    }
}
