package qlora4j.model;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** A random model of two layers, in a checkpoint of its own: grouped queries, biases, untied head. */
final class TinyModel {
    static final DecoderConfig LLAMA = config(DecoderConfig.Architecture.LLAMA, 0, 0, 4, true, true, false, false);
    /** Queries see four positions, their own included. */
    static final DecoderConfig WINDOWED = config(DecoderConfig.Architecture.MISTRAL, 4, 0, 4, false, false, false,
            false);
    static final DecoderConfig TIED = config(DecoderConfig.Architecture.LLAMA, 0, 0, 4, true, true, false, true);
    /** Biases at q, k and v; the upper layer sees four positions only. */
    static final DecoderConfig QWEN2 = config(DecoderConfig.Architecture.QWEN2, 4, 1, 4, true, false, false, true);
    /** Normed heads of more features than the hidden ones give them. */
    static final DecoderConfig QWEN3 = config(DecoderConfig.Architecture.QWEN3, 0, 0, 6, false, false, true, false);

    private TinyModel() {
    }

    private static DecoderConfig config(DecoderConfig.Architecture architecture, int window, int windowFrom,
            int headDim, boolean qkvBias, boolean otherBiases, boolean qkNorm, boolean tied) {
        return new DecoderConfig(architecture, 37, 16, 24, 2, 4, 2, headDim, 1e-5, 64, tied, window, windowFrom,
                RopeConfig.unscaled(10000), qkvBias, otherBiases, otherBiases, qkNorm, DType.F32, DecoderConfig.SILU,
                OptionalInt.of(1), List.of(2), OptionalInt.empty(), null);
    }

    /** The configuration called {@code name}. */
    static DecoderConfig named(String name) {
        return switch (name) {
            case "llama" -> LLAMA;
            case "windowed" -> WINDOWED;
            case "tied" -> TIED;
            case "qwen2" -> QWEN2;
            case "qwen3" -> QWEN3;
            default -> throw new IllegalArgumentException(name);
        };
    }

    /** A model directory with a tokenizer, {@code base} in {@code parent}. */
    static Path directory(Path parent, DecoderConfig config) throws IOException {
        Path base = Files.createDirectories(parent.resolve("base"));
        write(base.resolve("model.safetensors"), config);
        Files.copy(Golden.path("tokenizers/byte_level/tokenizer.json"), base.resolve("tokenizer.json"));
        JsonFile.MAPPER.writeValue(base.resolve("config.json").toFile(),
                config.toJson(JsonFile.MAPPER.createObjectNode()));
        return base;
    }

    /** Writes the checkpoint: linear weights normal with deviation 1/√in, so that activations keep magnitude one. */
    static Path write(Path file, DecoderConfig config) throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter();
        int[] item = {0};
        ModelTensors.expected(config).forEach((name, shape) -> {
            Philox.Sequence rng = new Philox.Sequence(99, 1, item[0]++);
            Tensor t = Tensor.zeros(DType.F32, shape);
            boolean embedding = name.contains("embed_tokens");
            for (long i = 0; i < t.size(); i++) {
                double v = rng.nextGaussian();
                t.set(i, name.contains("norm") ? 1 + 0.1 * v
                        : shape.length == 1 ? 0.1 * v
                                : embedding ? v : v / Math.sqrt(shape[1]));
            }
            writer.add(name, t);
        });
        writer.write(file);
        return file;
    }

    /** The model on a backend, linear layers in NF4 or dense. */
    static Decoder load(Path file, DecoderConfig config, Backend backend, DType type, boolean nf4) {
        try (Safetensors view = Safetensors.open(file)) {
            return new DecoderLoader(nf4 ? QuantConfig.QLORA : null, type).load(config, view, backend);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A trainable adapter whose B is not zero, so that all of its gradients are not. */
    static Adapter adapter(Decoder decoder, int slot, int rank, long seed) {
        return adapter(decoder, slot, new LoraConfig(rank, 2 * rank, 0, List.of(LoraConfig.ALL_LINEAR), null, seed),
                seed);
    }

    /** The same of any configuration. */
    static Adapter adapter(Decoder decoder, int slot, LoraConfig config, long seed) {
        Adapter a = Adapter.create(decoder, slot, config);
        Philox.Sequence rng = new Philox.Sequence(seed, 2, 0);
        for (ParameterStore.Parameter p : a.parameters().all()) {
            for (long i = 0; p.name().contains("lora_B") && i < p.value().size(); i++) {
                p.value().set(i, 0.2 * rng.nextGaussian());
            }
        }
        return a;
    }

    /** Sequences of random tokens. */
    static int[][] sequences(int seed, int... lengths) {
        Philox.Sequence rng = new Philox.Sequence(seed, 3, 0);
        int[][] all = new int[lengths.length][];
        for (int s = 0; s < lengths.length; s++) {
            all[s] = new int[lengths[s]];
            for (int i = 0; i < lengths[s]; i++) {
                all[s][i] = rng.nextInt(LLAMA.vocab());
            }
        }
        return all;
    }

    /** Sequences with labels: the next token, none for the first one and at the end of a sequence. */
    static TokenBatch labelled(int[][] sequences) {
        TokenBatch b = TokenBatch.of(sequences);
        int[] labels = new int[b.rows()];
        Arrays.fill(labels, TokenBatch.IGNORED);
        for (int s = 0; s < b.sequences(); s++) {
            for (int i = b.cuLengths()[s] + 1; i < b.cuLengths()[s + 1] - 1; i++) {
                labels[i] = b.tokens()[i + 1];
            }
        }
        return b.withLabels(labels);
    }

    /** The mean loss; gradients, if asked for, are added to the adapters'. */
    static double loss(Stream s, Decoder decoder, TokenBatch batch, Adapters adapters, LossOptions options) {
        Tensor scale = Tensor.zeros(Linear.wide(decoder.type()), 1).fill(1.0 / batch.labelRows().length);
        Tensor loss = Tensor.zeros(DType.F64, 1);
        decoder.loss(s, batch, adapters, options, scale, loss, null);
        return loss.get(0);
    }

    /** Logits of all rows as {@code [N][vocab]}. */
    static List<float[]> logits(Decoder decoder, TokenBatch batch, Adapters adapters) {
        int vocab = decoder.vocab(adapters);
        try (Stream s = decoder.backend().openStream()) {
            Tensor all = Tensor.zeros(decoder.type(), batch.rows(), vocab).fill(Double.NaN);
            decoder.logits(s, batch, adapters, null, all);
            List<float[]> rows = new ArrayList<>();
            for (int i = 0; i < batch.rows(); i++) {
                rows.add(all.rows(i, i + 1).toFloats());
            }
            return rows;
        }
    }
}
