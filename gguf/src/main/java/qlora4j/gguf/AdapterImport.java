package qlora4j.gguf;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.gguf.GgufException.Kind;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.DecoderConfig;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Makes a PEFT adapter's directory of llama.cpp's LoRA file; see {@link AdapterExport} for its form. */
final class AdapterImport {
    private AdapterImport() {
    }

    static GgufImport.Report run(Gguf gguf, Path target, GgufImport.Options options) throws IOException {
        Path base = options.base();
        if (base == null) {
            throw new IllegalArgumentException(gguf.file() + " is an adapter: give its base model's directory with"
                    + " --base, which says how the rows of the query and key projections lie");
        }
        GgufMetadata metadata = gguf.metadata();
        if (!metadata.text(AdapterExport.TYPE).equals(AdapterExport.LORA)) {
            throw metadata.wrong(AdapterExport.TYPE, AdapterExport.LORA);
        }
        double alpha = metadata.number(AdapterExport.ALPHA);
        if (!(alpha > 0 && alpha < Double.POSITIVE_INFINITY)) {
            throw metadata.wrong(AdapterExport.ALPHA, "a positive number");
        }
        DecoderConfig config = DecoderConfig.read(base);
        String modelType = config.architecture().modelType();
        if (!metadata.text(ConfigImport.ARCHITECTURE).equals(GgufExport.architecture(modelType))) {
            throw metadata.wrong(ConfigImport.ARCHITECTURE, GgufExport.architecture(modelType)
                    + ", as the base model " + base + " has it,");
        }
        DType wanted = options.dtype() != null ? options.dtype() : DType.F32;
        Map<String, Tensor[]> pairs = new LinkedHashMap<>();
        Map<GgmlType, Integer> sources = new EnumMap<>(GgmlType.class);
        for (GgufTensor tensor : gguf.tensors().values()) {
            String name = tensor.name();
            boolean isA = name.endsWith(AdapterExport.A);
            String weight = isA || name.endsWith(AdapterExport.B)
                    ? TensorNames.huggingFace(name.substring(0, name.length() - AdapterExport.A.length()))
                    : null;
            if (weight == null || !weight.endsWith(TensorNames.WEIGHT) || tensor.shape().length != 2
                    || tensor.elements() == 0 || !tensor.type().isReadable()) {
                throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "tensor " + tensor + " is not part of a LoRA"
                        + " adapter on linear layers");
            }
            RotaryLayout layout = isA ? null
                    : RotaryLayout.of(modelType, weight, config.heads(), config.kvHeads(),
                            config.headDim());
            Tensor values = Tensor.zeros(wanted, tensor.shape());
            long[] at = {0};
            TensorReader.write(gguf, tensor, layout, wanted, piece -> {
                MemorySegment.copy(piece, 0, values.data(), at[0], piece.byteSize());
                at[0] += piece.byteSize();
            });
            String module = weight.substring(0, weight.length() - TensorNames.WEIGHT.length());
            pairs.computeIfAbsent(module, _ -> new Tensor[2])[isA ? 0 : 1] = values;
            sources.merge(tensor.type(), 1, Integer::sum);
        }
        Map<String, AdapterWeights> modules = new LinkedHashMap<>();
        for (Map.Entry<String, Tensor[]> e : pairs.entrySet()) {
            Tensor[] pair = e.getValue();
            if (pair[0] == null || pair[1] == null) {
                throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "of module " + e.getKey() + " only one of "
                        + AdapterExport.A + " and " + AdapterExport.B + " is there");
            }
            modules.put(e.getKey(), new AdapterWeights(pair[0], pair[1]));
        }
        if (modules.isEmpty()) {
            throw new GgufException(Kind.BAD_TENSOR, gguf.file(), "the adapter has no tensors");
        }
        // Modules of another rank than the first one's are named one by one, as PEFT's rank_pattern does.
        int rank = Math.toIntExact(modules.values().iterator().next().a().dim(0));
        Map<String, Integer> others = new LinkedHashMap<>();
        modules.forEach((module, weights) -> {
            if (weights.a().dim(0) != rank) {
                others.put(module, Math.toIntExact(weights.a().dim(0)));
            }
        });
        LoraConfig lora = new LoraConfig(rank, alpha, 0,
                new ArrayList<>(modules.keySet()), base.toString(), 0).withPatterns(others, Map.of());
        GgufImport.claim(target, List.of(PeftAdapter.CONFIG, PeftAdapter.WEIGHTS), "an adapter");
        PeftAdapter.write(target, lora, modules);
        return new GgufImport.Report(GgufImport.ADAPTER, wanted, 2 * modules.size(),
                Files.size(target.resolve(PeftAdapter.WEIGHTS)), sources, List.of());
    }
}
