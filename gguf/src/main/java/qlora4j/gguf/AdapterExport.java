package qlora4j.gguf;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.DecoderConfig;
import qlora4j.tensor.Tensor;

/**
 * Makes llama.cpp's LoRA file of a PEFT adapter (convert_lora_to_gguf.py, llama-adapter.cpp): the metadata
 * {@code general.type = adapter}, {@code adapter.type = lora} and {@code adapter.lora.alpha}; for each weight NAME the
 * tensors {@code NAME.lora_a [r, in]} and {@code NAME.lora_b [out, r]}, the rows of B in GGUF's order. llama.cpp adds
 * {@code (alpha / r) B·A}.
 */
public final class AdapterExport {
    static final String TYPE = "adapter.type";
    static final String LORA = "lora";
    static final String ALPHA = "adapter.lora.alpha";
    static final String A = ".lora_a";
    static final String B = ".lora_b";

    private AdapterExport() {
    }

    /**
     * Writes the adapter in {@code source} to {@code target}.
     *
     * @param base the directory of the base model
     * @param type of the tensors: F32, F16 or BF16
     * @throws IOException if a file cannot be read or written, the target exists, or the adapter does not fit the model
     */
    public static GgufExport.Report run(Path source, Path base, Path target, GgmlType type) throws IOException {
        if (type.plain() == null) {
            throw new IllegalArgumentException("an adapter is written as F32, F16 or BF16, not as " + type);
        }
        GgufExport.refuseExisting(target);
        DecoderConfig config = DecoderConfig.read(base);
        String modelType = config.architecture().modelType();
        try (PeftAdapter adapter = PeftAdapter.open(source)) {
            LoraConfig lora = adapter.config();
            refuseMoreThanLora(adapter);
            GgufWriter out = new GgufWriter();
            out.text(ConfigImport.ARCHITECTURE, GgufExport.architecture(modelType));
            out.text(GgufImport.TYPE, GgufImport.ADAPTER).text(TYPE, LORA);
            out.text(ConfigImport.NAME, source.toRealPath().getFileName().toString());
            double alpha = alpha(lora, adapter.modules().keySet().iterator().next());
            out.float32(ALPHA, alpha);
            for (Map.Entry<String, AdapterWeights> e : adapter.modules().entrySet()) {
                String weight = e.getKey() + TensorNames.WEIGHT;
                String name = TensorNames.gguf(weight);
                if (name == null) {
                    throw new IOException(source + ": module " + e.getKey() + " has no name in GGUF");
                }
                RotaryLayout layout = RotaryLayout.of(modelType, weight, config.heads(), config.kvHeads(),
                        config.headDim());
                Tensor b = e.getValue().b();
                if (layout != null && b.dim(0) != (long) layout.heads() * layout.headDim()) {
                    throw new IOException(source + ": module " + e.getKey() + " has " + b.dim(0) + " outputs; the base"
                            + " model " + base + " has " + layout.heads() + " heads of " + layout.headDim());
                }
                add(out, name + A, e.getValue().a(), null, type);
                add(out, name + B, scaled(b, alpha(lora, e.getKey()) / alpha), layout, type);
            }
            out.write(target);
            return new GgufExport.Report(GgufExport.architecture(modelType), 2 * adapter.modules().size(),
                    Files.size(target), List.of());
        }
    }

    /** llama.cpp divides alpha by a module's rank; so whatever its scale is, this is the alpha that gives it. */
    private static double alpha(LoraConfig lora, String module) {
        return lora.scale(module) * lora.rank(module);
    }

    /** The file has one alpha for all; what a module's own alpha differs by goes into its B. */
    private static Tensor scaled(Tensor b, double factor) {
        if (factor == 1) {
            return b;
        }
        float[] values = b.toFloats();
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) (values[i] * factor);
        }
        return Tensor.of(values, b.shape());
    }

    private static void refuseMoreThanLora(PeftAdapter adapter) throws IOException {
        String more = adapter.config().dora() ? "DoRA's magnitudes"
                : !adapter.tokens().isEmpty() ? "tokens of its own (trainable_token_indices)"
                        : adapter.whole().isEmpty() ? null
                                : "trained biases or whole modules, such as "
                                        + adapter.whole().keySet().iterator().next();
        if (more != null) {
            throw new IOException(adapter.directory() + ": the adapter has " + more + ", which llama.cpp's adapters do"
                    + " not; merge it into the model and export that");
        }
        if (adapter.modules().isEmpty()) {
            throw new IOException(adapter.directory() + ": the adapter has no modules");
        }
    }

    private static void add(GgufWriter out, String name, Tensor tensor, RotaryLayout layout, GgmlType type) {
        out.tensor(name, type, tensor.shape(), sink -> TensorWriter.write(name, tensor, layout, type, sink));
    }
}
