package qlora4j.train;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderConfig;
import qlora4j.model.RopeConfig;
import qlora4j.model.TrainableWeights;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Philox;
import qlora4j.train.data.DataReport;
import qlora4j.train.data.Row;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.data.TokenizedRow;

/** A model directory with a small random model, and data for it. */
final class TinyRun {
    static final DecoderConfig CONFIG = new DecoderConfig(DecoderConfig.Architecture.LLAMA, 480, 32, 48, 2, 4, 2, 8,
            1e-5, 256, true, 0, 0, RopeConfig.unscaled(10000), false, false, false, false, DType.F32,
            DecoderConfig.SILU,
            OptionalInt.of(1), List.of(2), OptionalInt.of(3), null);
    private static final Path TOKENIZER = Path.of("../model/src/test/resources/golden/tokenizers/byte_level");

    private TinyRun() {
    }

    /** Writes a Hugging Face model directory with the recorded byte-level tokenizer. */
    static Path model(Path directory) throws IOException {
        return model(directory, CONFIG);
    }

    /** The same of another shape, of as many tokens as the tokenizer has. */
    static Path model(Path directory, DecoderConfig config) throws IOException {
        Files.createDirectories(directory);
        for (String name : List.of("tokenizer.json", "tokenizer_config.json")) {
            Files.copy(TOKENIZER.resolve(name), directory.resolve(name), StandardCopyOption.REPLACE_EXISTING);
        }
        ObjectMapper mapper = new ObjectMapper();
        Files.write(directory.resolve(DecoderConfig.FILE),
                mapper.writeValueAsBytes(config.toJson(mapper.createObjectNode())));
        try (Backend backend = Backends.open(Backend.SCALAR);
                TrainableWeights w = new TrainableWeights(config, backend)) {
            w.initialize(config, 0.5, 0.1, 3);
            w.save(directory, DType.F32);
        }
        return directory;
    }

    /** Rows of random tokens: lengths from 4 to 23, different shares of prompts. */
    static TokenizedData data(int seed, int rows) {
        Philox.Sequence rng = new Philox.Sequence(seed, 0, 0);
        List<TokenizedRow> all = new ArrayList<>();
        List<Row> sources = new ArrayList<>();
        for (int r = 0; r < rows; r++) {
            int[] ids = new int[4 + rng.nextInt(20)];
            for (int i = 0; i < ids.length; i++) {
                ids[i] = 6 + rng.nextInt(CONFIG.vocab() - 6);
            }
            all.add(new TokenizedRow(ids, 1 + rng.nextInt(ids.length - 1), 0));
            sources.add(new Row.PromptCompletion("row " + r, "", "x", java.util.Map.of()));
        }
        long tokens = all.stream().mapToLong(TokenizedRow::length).sum();
        long labels = all.stream().mapToLong(TokenizedRow::labelTokens).sum();
        return new TokenizedData(all, sources,
                new DataReport(32, rows, rows, 0, List.of(), List.of(), tokens, labels));
    }

    /** An adapter on all layers whose B is not zero. */
    static Adapter adapter(CausalLm lm, String name, int rank, double dropout) {
        Adapter a = lm.attach(name, new LoraConfig(rank, rank, dropout, List.of(LoraConfig.ALL_LINEAR), null, 8));
        Philox.Sequence rng = new Philox.Sequence(21, 2, 0);
        for (ParameterStore.Parameter p : a.parameters().all()) {
            for (long i = 0; p.name().contains("lora_B") && i < p.value().size(); i++) {
                p.value().set(i, 0.1 * rng.nextGaussian());
            }
        }
        return a;
    }

    static TrainSettings settings(int steps, int perDevice, int accumulation, Residency resident,
            boolean checkpointing, int saveSteps) {
        TrainSettings d = TrainSettings.defaults();
        return new TrainSettings(steps, 0, perDevice, accumulation, 32, 1e-2, d.schedule(), 0.2, d.maxGradNorm(),
                d.adam(), resident, checkpointing, 1, saveSteps, 2, saveSteps, 42);
    }
}
