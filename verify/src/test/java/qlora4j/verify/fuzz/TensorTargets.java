package qlora4j.verify.fuzz;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.PeftAdapter;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Files of tensors: safetensors, their index, PEFT adapters, bitsandbytes' 4-bit weights. */
final class TensorTargets {
    private static final String SINGLE = SafetensorsModel.DEFAULT_STEM + ".safetensors";
    private static final String INDEX = SINGLE + ".index.json";
    private static final String SHARD = "model-0000%d-of-00002.safetensors";

    private TensorTargets() {
    }

    static List<FuzzTarget> all() {
        return List.of(new SafetensorsTarget(), new IndexTarget(), new AdapterTarget(), new FourBitTarget());
    }

    /** The bytes that a writer writes. */
    static byte[] bytes(Consumer<SafetensorsWriter> content) throws IOException {
        Path file = Files.createTempFile("seed", ".safetensors");
        try {
            SafetensorsWriter writer = new SafetensorsWriter();
            content.accept(writer);
            writer.write(file);
            return Files.readAllBytes(file);
        } finally {
            Files.delete(file);
        }
    }

    /** Touches every byte and both ends of every tensor, as elements. */
    private static void touch(SafetensorsView view) {
        for (String name : view.names()) {
            view.segment(name).toArray(ValueLayout.JAVA_BYTE);
            Tensor t = view.tensor(name);
            if (t.size() > 0 && t.dtype().bits() >= Byte.SIZE && t.dtype() != DType.C64) {
                t.get(0);
                t.get(t.size() - 1);
            }
        }
        view.toString();
    }

    /** One safetensors file. */
    private static final class SafetensorsTarget extends FuzzTarget {
        SafetensorsTarget() {
            super("safetensors");
        }

        @Override
        List<byte[]> seeds() throws IOException {
            return List.of(bytes(w -> w.metadata("format", "pt").add("a", Tensor.of(new float[]{1, 2, 3}, 3))
                    .add("b.weight", Tensor.zeros(DType.BF16, 2, 2)).add("empty", Tensor.zeros(DType.U8, 0, 4))),
                    bytes(w -> w.add("scalar", Tensor.zeros(DType.F64))),
                    bytes(_ -> {
                    }));
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            Path file = Files.write(scratch.resolve("fuzzed.safetensors"), input);
            try (Safetensors s = Safetensors.open(file)) {
                s.metadata().toString();
                touch(s);
            }
        }
    }

    /** The index of a sharded model, beside two valid shards. */
    private static final class IndexTarget extends FuzzTarget {
        IndexTarget() {
            super("index");
        }

        @Override
        List<byte[]> seeds() {
            return List.of(utf8("""
                    {"metadata": {"total_size": 24}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                     "b": "model-00002-of-00002.safetensors"}}"""));
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            Path file = scratch.resolve(INDEX);
            for (int i = 1; i <= 2; i++) {
                Path shard = scratch.resolve(String.format(SHARD, i));
                if (!Files.exists(shard)) {
                    new SafetensorsWriter().add(i == 1 ? "a" : "b", Tensor.zeros(DType.F32, 3)).write(shard);
                }
            }
            Files.write(file, input);
            try (SafetensorsModel model = SafetensorsModel.open(scratch)) {
                touch(model);
            }
        }
    }

    /** A PEFT adapter: its configuration, its tensors. */
    private static final class AdapterTarget extends FuzzTarget {
        private static final String MODULE = "base_model.model.model.layers.0.self_attn.q_proj";
        private static final String CONFIG = """
                {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "bias": "none",
                 "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "lora_alpha": 16,
                 "lora_dropout": 0.05, "modules_to_save": null, "r": 2, "rank_pattern": {}, "alpha_pattern": {},
                 "layers_to_transform": null, "layers_pattern": null, "target_modules": ["q_proj"],
                 "use_dora": false, "use_rslora": false}""";

        AdapterTarget() {
            super("adapter");
        }

        @Override
        List<byte[]> seeds() throws IOException {
            byte[] weights = bytes(w -> w.metadata("format", "pt")
                    .add(MODULE + ".lora_A.weight", Tensor.zeros(DType.F32, 2, 4))
                    .add(MODULE + ".lora_B.weight", Tensor.zeros(DType.F32, 3, 2)));
            byte[] dora = bytes(w -> w.add(MODULE + ".lora_A.weight", Tensor.zeros(DType.BF16, 3, 2))
                    .add(MODULE + ".lora_B.weight", Tensor.zeros(DType.BF16, 2, 3))
                    .add(MODULE + ".lora_magnitude_vector", Tensor.zeros(DType.BF16, 2))
                    .add(MODULE + ".base_layer.bias", Tensor.zeros(DType.F32, 2)));
            return List.of(join(utf8(CONFIG), weights), join(utf8("""
                    {"peft_type": "LORA", "r": 2, "lora_alpha": 8.5, "target_modules": ".*q_proj", "use_dora": true,
                     "use_rslora": true, "bias": "lora_only", "rank_pattern": {"^model.layers.0.*q_proj": 3},
                     "alpha_pattern": {"q_proj": 4}}"""), dora));
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            byte[][] parts = split(input, 2);
            put(scratch.resolve(PeftAdapter.CONFIG), parts[0]);
            put(scratch.resolve(PeftAdapter.WEIGHTS), parts[1]);
            try (PeftAdapter adapter = PeftAdapter.open(scratch)) {
                adapter.toString();
                adapter.modules().forEach((module, weights) -> {
                    adapter.config().rank(module);
                    adapter.config().scale(module);
                    weights.a().get(0);
                });
            }
        }
    }

    /** bitsandbytes' 4-bit weight: the JSON of its quant_state, in a file that is valid but for that. */
    private static final class FourBitTarget extends FuzzTarget {
        private static final String NAME = "w.weight";
        private static final String STATE = NAME + ".quant_state.bitsandbytes__nf4";
        private final Map<String, Tensor> parts = new LinkedHashMap<>();

        FourBitTarget() {
            super("quant-state");
            try (Backend scalar = Backends.open(Backend.SCALAR); Stream s = scalar.openStream()) {
                QuantizedTensor w = Blockwise.quantize(s, Tensor.zeros(DType.F32, 2, 64).fill(0.5), QuantConfig.QLORA);
                Path file = Files.createTempFile("seed", ".safetensors");
                SafetensorsWriter writer = new SafetensorsWriter();
                Bnb4bit.write(writer, NAME, w);
                writer.write(file);
                try (Safetensors read = Safetensors.open(file)) {
                    for (String name : read.names()) {
                        Tensor t = read.tensor(name);
                        parts.put(name, Tensor.zeros(t.dtype(), t.shape()).copyFrom(t));
                    }
                } finally {
                    Files.delete(file);
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        @Override
        List<byte[]> seeds() {
            return List.of(parts.get(STATE).data().toArray(ValueLayout.JAVA_BYTE));
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            Path file = scratch.resolve(SINGLE);
            SafetensorsWriter writer = new SafetensorsWriter();
            parts.forEach((name, tensor) -> {
                if (!name.equals(STATE)) {
                    writer.add(name, tensor);
                }
            });
            Tensor state = Tensor.zeros(DType.U8, input.length);
            state.data().copyFrom(MemorySegment.ofArray(input));
            writer.add(STATE, state).write(file);
            try (Safetensors s = Safetensors.open(file)) {
                QuantizedTensor w = Bnb4bit.read(s, NAME);
                w.toString();
                try (Backend scalar = Backends.open(Backend.SCALAR); Stream stream = scalar.openStream()) {
                    Blockwise.dequantize(stream, w, Tensor.zeros(DType.F32, w.shape()));
                }
            }
        }
    }
}
