package qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.Merging;
import qlora4j.lora.PeftAdapter;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Merges an adapter into a model directory: every layer with an adapter becomes {@code W + scale·B·A} in float32 and is
 * then stored. How much of an adapter that loses is measured layer by layer before anything is written:
 * {@link Layer#ratio}. The backend is one on the host.
 */
public final class ModelMerger implements AutoCloseable {
    private static final String SUFFIX = ".weight";

    /** What the adapter is added to, and how the sum is stored. */
    public enum Into {
        /** The dense weights, stored in 16 (or 32) bits. */
        DENSE,
        /** The 4-bit weights' values, which an adapter of QLoRA was trained on, stored in 16 (or 32) bits. */
        DEQUANTIZED,
        /** The same, quantized to 4 bits again. */
        REQUANTIZED;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /**
     * One merged layer.
     *
     * @param name of the weight
     * @param delta the Frobenius norm of what the adapter adds
     * @param error that of what storing the sum changes
     */
    public record Layer(String name, double delta, double error) {
        /** Below 0.1 the adapter is kept well; at 1 as much is lost as was added. */
        public double ratio() {
            return error / delta;
        }
    }

    private final ModelDirectory source;
    private final PeftAdapter adapter;
    private final Into into;
    private final DType dtype;
    private final Backend backend;
    private final SafetensorsModel weights;

    /**
     * Opens an adapter beside a model.
     *
     * @param into null: dense for a dense model, dequantized for a 4-bit one
     * @param dtype of what is stored densely; null: the model's own where it has 16 bits, else bfloat16
     * @throws IOException if the adapter cannot be read or does not fit the model
     */
    public ModelMerger(ModelDirectory source, Path adapter, Into into, DType dtype, Backend backend)
            throws IOException {
        boolean fourBit = source.config().quantization() != null;
        if (!backend.device().isHost()) {
            throw new IllegalArgumentException("--backend " + backend.name() + ": merging runs on the host's backends");
        }
        if (fourBit && into == Into.DENSE) {
            throw new ModelFormatException(source.path(), "the model is in 4 bits, so there are no dense weights to"
                    + " merge into: use --into dequantized or requantized, or give the dense model");
        }
        DType own = source.config().dtype();
        this.source = source;
        this.into = into != null ? into : fourBit ? Into.DEQUANTIZED : Into.DENSE;
        this.dtype = dtype != null ? dtype : own == DType.F16 || own == DType.BF16 ? own : DType.BF16;
        this.backend = backend;
        this.weights = source.weights();
        this.adapter = PeftAdapter.open(adapter);
        try {
            check(adapter);
        } catch (IOException | RuntimeException e) {
            this.adapter.close();
            throw e;
        }
    }

    private void check(Path directory) throws IOException {
        Map<String, long[]> shapes = source.expectedTensors();
        for (Map.Entry<String, AdapterWeights> e : adapter.modules().entrySet()) {
            long[] shape = shapes.get(e.getKey() + SUFFIX);
            long[] theirs = {e.getValue().b().rows(), e.getValue().a().cols()};
            if (!Arrays.equals(shape, theirs)) {
                throw new IOException(directory + ": the adapter's " + e.getKey() + " is " + Arrays.toString(theirs)
                        + ", the model's " + (shape == null ? "is missing" : Arrays.toString(shape))
                        + ": was it trained on another model?");
            }
        }
        for (Map.Entry<String, Tensor> e : adapter.whole().entrySet()) {
            long[] shape = e.getKey().equals(ModelTensors.HEAD) ? shapes.get(ModelTensors.EMBEDDING)
                    : shapes.get(e.getKey());
            if (TableMemory.isTable(e.getKey()) && e.getValue().rank() == 2) {
                shape = new long[]{e.getValue().dim(0), shape[1]};
            }
            if (!Arrays.equals(shape, e.getValue().shape())) {
                throw new IOException(directory + ": the adapter's " + e.getKey() + " is " + e.getValue()
                        + ", the model's " + (shape == null ? "is missing" : Arrays.toString(shape))
                        + ": was it trained on another model?");
            }
        }
    }

    public Into into() {
        return into;
    }

    /** Why the base may not be the one that the adapter was trained on; empty where nothing says so. */
    public Optional<String> doubt() {
        String trainedOn = adapter.config().baseModelName();
        if (trainedOn == null || trainedOn.isBlank()) {
            return Optional.of(adapter.directory() + ": its configuration does not name the base model it was trained"
                    + " on; merged into another one it computes something else");
        }
        Path named = Path.of(trainedOn);
        Path here = source.path().toAbsolutePath().normalize();
        boolean same = named.toAbsolutePath().normalize().equals(here)
                || named.getFileName() != null && named.getFileName().equals(here.getFileName());
        return same ? Optional.empty()
                : Optional.of(adapter.directory() + " was trained on " + trainedOn + ", and is merged into "
                        + source.path() + ": unless these are the same weights, the sum is not what was trained");
    }

    /** Measures every merged layer; nothing is written. */
    public List<Layer> measure(Consumer<Layer> onLayer) throws IOException {
        List<Layer> layers = new ArrayList<>();
        for (String module : adapter.modules().keySet()) {
            Tensor w = base(module + SUFFIX);
            Merging.Change change = Merging.merge(w, adapter.modules().get(module), scale(module));
            Layer layer = new Layer(module + SUFFIX, change.delta(), distance(w, stored(module + SUFFIX, w)));
            layers.add(layer);
            onLayer.accept(layer);
        }
        return layers;
    }

    private double scale(String module) {
        LoraConfig config = adapter.config();
        return config.scale(module);
    }

    private static double distance(Tensor a, Tensor b) {
        float[] x = a.toFloats();
        float[] y = b.toFloats();
        double sum = 0;
        for (int i = 0; i < x.length; i++) {
            sum += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        }
        return Math.sqrt(sum);
    }

    /** Whether a weight is, or in training was, held in 4 bits. */
    private boolean fourBit(String name) {
        boolean dense = source.config().quantization() == null;
        return Bnb4bit.contains(weights, name)
                || dense && name.startsWith(CheckpointQuantizer.LAYERS)
                        && source.expectedTensors().get(name).length == 2;
    }

    private QuantizedTensor quantized(String name) throws IOException {
        return Bnb4bit.contains(weights, name)
                ? Bnb4bit.read(weights, name)
                : CheckpointQuantizer.quantize(weights.tensor(name), QuantConfig.QLORA, backend);
    }

    /** A weight in float32: as it is, or its 4-bit value. */
    private Tensor base(String name) throws IOException {
        return into != Into.DENSE && fourBit(name)
                ? dequantized(quantized(name))
                : Tensor.zeros(DType.F32, weights.tensor(name).shape()).copyFrom(weights.tensor(name));
    }

    private Tensor dequantized(QuantizedTensor w) {
        Tensor out = Tensor.zeros(DType.F32, w.shape());
        try (Stream s = backend.openStream()) {
            Blockwise.dequantize(s, w, out);
        }
        return out;
    }

    /** What a reader of the written model will see. */
    private Tensor stored(String name, Tensor merged) throws IOException {
        if (into == Into.REQUANTIZED && fourBit(name)) {
            return dequantized(requantized(merged, quantized(name)));
        }
        return CheckpointQuantizer.cast(CheckpointQuantizer.cast(merged, dtype), DType.F32);
    }

    private QuantizedTensor requantized(Tensor merged, QuantizedTensor before) {
        return CheckpointQuantizer.quantize(CheckpointQuantizer.cast(merged, before.dtype()), before.config(),
                backend);
    }

    /** A tensor of the merged model in float32. */
    private Tensor merged(String name) throws IOException {
        Tensor whole = adapter.whole().get(name);
        if (whole != null) {
            return Tensor.zeros(DType.F32, whole.shape()).copyFrom(whole);
        }
        Tensor rows = tokens(name);
        if (rows != null) {
            return rows;
        }
        // A head that was tied and has parted from the embedding.
        boolean parted = name.equals(ModelTensors.HEAD) && source.config().tieWordEmbeddings();
        Tensor w = base(parted ? ModelTensors.EMBEDDING : name);
        String module = name.endsWith(SUFFIX) ? name.substring(0, name.length() - SUFFIX.length()) : "";
        if (adapter.modules().containsKey(module)) {
            Merging.merge(w, adapter.modules().get(module), scale(module));
        }
        return w;
    }

    /** The embedding or head with the adapter's rows; null where it has none. */
    private Tensor tokens(String name) throws IOException {
        String module = name.endsWith(SUFFIX) ? name.substring(0, name.length() - SUFFIX.length()) : "";
        List<Integer> ids = adapter.config().tokens().of(module);
        if (ids.isEmpty()) {
            return null;
        }
        Tensor w = base(name);
        Tensor grown = Tensor.zeros(DType.F32, vocab(), w.cols());
        grown.rows(0, w.rows()).copyFrom(w);
        for (int i = 0; i < ids.size(); i++) {
            int id = ids.get(i);
            grown.rows(id, id + 1).copyFrom(adapter.tokens().get(module).rows(i, i + 1));
        }
        return grown;
    }

    /** The merged model's tokens: those of a whole embedding, or the base's and those that the adapter adds. */
    private int vocab() {
        Tensor whole = adapter.whole().get(ModelTensors.EMBEDDING);
        return whole != null
                ? whole.rows()
                : adapter.config().tokens().indices().values().stream().flatMap(List::stream).mapToInt(id -> id + 1)
                        .reduce(source.config().vocab(), Math::max);
    }

    /** Writes the merged model into {@code target}, which is made and must not hold a model. */
    public void write(Path target) throws IOException {
        CheckpointQuantizer.refuseModel(target);
        Files.createDirectories(target);
        DecoderConfig config = source.config();
        Tensor embedding = adapter.whole().get(ModelTensors.EMBEDDING);
        Tensor ownHead = adapter.whole().get(ModelTensors.HEAD);
        boolean equal = embedding != null && ownHead != null && PeftAdapter.same(embedding, ownHead);
        boolean parted = config.tieWordEmbeddings() && !equal && (adapter.whole().containsKey(ModelTensors.HEAD)
                || adapter.whole().containsKey(ModelTensors.EMBEDDING));
        Map<String, long[]> shapes = new LinkedHashMap<>(source.expectedTensors());
        long[] table = {vocab(), config.hidden()};
        shapes.put(ModelTensors.EMBEDDING, table);
        if (parted || !config.tieWordEmbeddings()) {
            shapes.put(ModelTensors.HEAD, table);
        }
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        for (Map.Entry<String, long[]> e : shapes.entrySet()) {
            String name = e.getKey();
            if (into == Into.REQUANTIZED && !adapter.whole().containsKey(name) && fourBit(name)) {
                boolean adapted = adapter.modules().containsKey(name.substring(0, name.length() - SUFFIX.length()));
                QuantizedTensor w = quantized(name);
                Bnb4bit.write(writer, name, adapted ? requantized(merged(name), w) : w);
            } else {
                writer.add(name, dtype, sink -> sink.write(CheckpointQuantizer.cast(merged(name), dtype).data()),
                        e.getValue());
            }
        }
        writer.write(target.resolve(CheckpointQuantizer.WEIGHTS));
        Quantization4bit held = config.quantization() != null
                ? config.quantization()
                : new Quantization4bit(QuantConfig.QLORA.type(), QuantConfig.QLORA.nested(), dtype, List.of());
        ObjectNode json = config.withDtype(dtype).withQuantization(into == Into.REQUANTIZED ? held : null)
                .toJson(source.configJson());
        json.put("vocab_size", vocab());
        if (parted) {
            json.put("tie_word_embeddings", false);
        }
        CheckpointQuantizer.complete(source, CausalLm.hasTokenizer(adapter.directory()) ? adapter.directory() : null,
                target, json);
    }

    @Override
    public void close() {
        adapter.close();
    }
}
