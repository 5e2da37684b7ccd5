package qlora4j.cuda;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.TrainableTokens;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelTensors;
import qlora4j.model.TokenBatch;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Random models of three layers of the kinds in the golden data, their adapters, batches and losses on any backend. */
final class TinyModels {
    static final int VOCABULARY = 320;
    private static final String SHAPE = """
            "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "vocab_size": 320,
            "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
            """;
    /** All inputs of linear layers are multiples of 256, as those of published models: kernels for few rows want that. */
    private static final String WIDE = SHAPE.replace("\"hidden_size\": 64", "\"hidden_size\": 256")
            .replace("\"intermediate_size\": 176", "\"intermediate_size\": 512")
            .replace("_attention_heads\": 4", "_attention_heads\": 16")
            .replace("_value_heads\": 2", "_value_heads\": 4");
    /** What tells each kind from the others. */
    private static final Map<String, String> KINDS = new TreeMap<>(Map.of(
            "llama", """
                    "model_type": "llama", "head_dim": 16, "rope_theta": 10000.0, "tie_word_embeddings": false""",
            "llama3", """
                    "model_type": "llama", "head_dim": 16, "tie_word_embeddings": true, "rope_theta": 500000.0,
                    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64}""",
            "mistral", """
                    "model_type": "mistral", "head_dim": 16, "rope_theta": 10000.0, "sliding_window": 7,
                    "tie_word_embeddings": false""",
            "qwen2", """
                    "model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": true,
                    "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28""",
            "qwen3", """
                    "model_type": "qwen3", "head_dim": 32, "rope_theta": 1000000.0, "attention_bias": false,
                    "tie_word_embeddings": true, "use_sliding_window": false, "sliding_window": null,
                    "max_window_layers": 28"""));

    private TinyModels() {
    }

    /** Writes a random model of {@code kind} into {@code directory}: normal weights that keep activations near one. */
    static Path write(Path directory, String kind, Random random) throws IOException {
        return write(directory, kind, SHAPE, random);
    }

    /** The same with layers of 256 and 512 inputs. */
    static Path writeWide(Path directory, String kind, Random random) throws IOException {
        return write(directory, kind, WIDE, random);
    }

    private static Path write(Path directory, String kind, String common, Random random) throws IOException {
        Path to = Files.createDirectory(directory.resolve(kind));
        Files.writeString(to.resolve(DecoderConfig.FILE), "{" + common + KINDS.get(kind) + "}");
        SafetensorsWriter writer = new SafetensorsWriter();
        DecoderConfig config = DecoderConfig.read(to.resolve(DecoderConfig.FILE));
        ModelTensors.expected(config).forEach((name, shape) -> {
            Tensor t = Tensor.zeros(DType.F32, shape);
            boolean norm = name.contains("norm");
            boolean onlyEmbedding = name.equals(ModelTensors.EMBEDDING) && !config.tieWordEmbeddings();
            double deviation = shape.length == 1 ? 0.1 : onlyEmbedding ? 1 : 1 / Math.sqrt(shape[1]);
            for (long i = 0; i < t.size(); i++) {
                t.set(i, (norm ? 1 : 0) + deviation * random.nextGaussian());
            }
            writer.add(name, t);
        });
        writer.write(to.resolve("model.safetensors"));
        return to;
    }

    /** The model on a backend, linear layers in NF4 or dense. */
    static Decoder load(Path directory, Backend backend, DType type, boolean nf4) {
        try (Safetensors view = Safetensors.open(directory.resolve("model.safetensors"))) {
            return new DecoderLoader(nf4 ? QuantConfig.QLORA : null, type)
                    .load(DecoderConfig.read(directory.resolve(DecoderConfig.FILE)), view, backend);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A trainable adapter whose B is not zero, so that all of its gradients are not. */
    static Adapter adapter(Decoder decoder, int slot, int rank, long seed) {
        return adapter(decoder, slot, rank, seed, TrainableTokens.NONE);
    }

    /** The same, with rows of the embedding and of the head of its own. */
    static Adapter adapter(Decoder decoder, int slot, int rank, long seed, TrainableTokens tokens) {
        Adapter adapter = Adapter.create(decoder, slot,
                new LoraConfig(rank, 2 * rank, 0, List.of(LoraConfig.ALL_LINEAR), null, seed).withTokens(tokens));
        Random random = new Random(seed);
        for (ParameterStore.Parameter p : adapter.parameters().all()) {
            if (p.name().contains("lora_B")) {
                Tensor b = Gpu.normal(random, p.value().dtype(), p.value().shape());
                for (long i = 0; i < b.size(); i++) {
                    b.set(i, 0.1 * b.get(i));
                }
                decoder.backend().upload(b, p.value());
            }
        }
        return adapter;
    }

    /** Sequences of random tokens. */
    static int[][] sequences(Random random, int... lengths) {
        return Arrays.stream(lengths).mapToObj(n -> random.ints(n, 3, VOCABULARY).toArray()).toArray(int[][]::new);
    }

    /** Sequences with labels: the next token, none for the first two rows and the last of each. */
    static TokenBatch labelled(int[][] sequences) {
        TokenBatch b = TokenBatch.of(sequences);
        int[] labels = new int[b.rows()];
        Arrays.fill(labels, TokenBatch.IGNORED);
        for (int s = 0; s < b.sequences(); s++) {
            for (int i = b.cuLengths()[s] + 2; i < b.cuLengths()[s + 1] - 1; i++) {
                labels[i] = b.tokens()[i + 1];
            }
        }
        return b.withLabels(labels);
    }

    /** A loss and the gradients of all parameters, on the host. */
    record Step(double loss, Map<String, Tensor> grads) {
        /** The gradients' difference from {@code other}'s, relative to these in the Euclidean norm. */
        double distance(Step other) {
            double difference = 0;
            double norm = 0;
            for (String name : grads.keySet()) {
                for (long i = 0; i < grads.get(name).size(); i++) {
                    difference += Math.pow(grads.get(name).get(i) - other.grads.get(name).get(i), 2);
                    norm += Math.pow(grads.get(name).get(i), 2);
                }
            }
            return Math.sqrt(difference / norm);
        }

        boolean sameBits(Step other) {
            return Double.doubleToRawLongBits(loss) == Double.doubleToRawLongBits(other.loss) && grads.keySet().stream()
                    .allMatch(n -> grads.get(n).data().mismatch(other.grads.get(n).data()) == -1);
        }
    }

    /** How adapter {@code slot} is trained: with dropout when p is not 0. */
    static Adapters training(Backend backend, int slot, double p) {
        if (p == 0) {
            return new Adapters(slot, null, null);
        }
        Tensor step = backend.allocate(MemoryUse.WORKSPACE, DType.I32, 1);
        backend.upload(Tensor.of(new int[]{3}, 1), step);
        return new Adapters(slot, null, new Dropout(p, 17, step, null, null));
    }

    /** The mean loss of a batch and its gradients; the step takes its tensors from {@code plan}'s arena when given. */
    static Step step(Decoder decoder, ParameterStore parameters, TokenBatch batch, Adapters adapters,
            LossOptions options, ArenaPlan plan, Allocation arena) {
        Backend backend = decoder.backend();
        long labels = Arrays.stream(batch.labels()).filter(l -> l != TokenBatch.IGNORED).count();
        try (Stream s = backend.openStream(); Allocation memory = backend.allocate(128, MemoryUse.WORKSPACE)) {
            Tensor scale = memory.tensor(0, Linear.wide(decoder.type()), 1);
            Tensor loss = memory.tensor(64, DType.F64, 1);
            backend.upload(Tensor.zeros(scale.dtype(), 1).fill(1.0 / labels), scale);
            s.zero(loss);
            parameters.zeroGrads(s);
            if (plan != null) {
                s.begin(plan, arena);
            }
            decoder.loss(s, batch, adapters, options, scale, loss, null);
            if (plan != null) {
                s.end();
            }
            Map<String, Tensor> grads = new LinkedHashMap<>();
            for (ParameterStore.Parameter p : parameters.all()) {
                Tensor host = Tensor.zeros(p.grad().dtype(), p.grad().shape());
                backend.download(p.grad(), host);
                grads.put(p.name(), host);
            }
            Tensor host = Tensor.zeros(DType.F64, 1);
            backend.download(loss, host);
            return new Step(host.get(0), grads);
        }
    }
}
