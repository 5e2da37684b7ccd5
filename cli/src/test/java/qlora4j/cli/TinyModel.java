package qlora4j.cli;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import qlora4j.model.DecoderConfig;
import qlora4j.model.ModelTensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Tensor;

/** A model directory with random weights and a real tokenizer, and rows to train it on. */
final class TinyModel {
    private static final double DEVIATION = 0.2;

    private TinyModel() {
    }

    /** Writes the model of a seed into {@code directory}, which is made. */
    static Path write(Path directory, long seed) throws IOException {
        return write(directory, seed, 0);
    }

    /** The same with {@code padding} tokens that the tokenizer lacks, and that the model always finds best. */
    static Path write(Path directory, long seed, int padding) throws IOException {
        Files.createDirectories(directory);
        for (String name : List.of("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")) {
            try (InputStream in = TinyModel.class.getResourceAsStream("/tiny/" + name)) {
                Files.copy(in, directory.resolve(name));
            }
        }
        Path config = directory.resolve("config.json");
        int tokens = DecoderConfig.read(config).vocab();
        Files.writeString(config, Files.readString(config).replaceFirst("\"vocab_size\": *\\d+",
                "\"vocab_size\": " + (tokens + padding)));
        Random random = new Random(seed);
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt");
        Map<String, long[]> expected = ModelTensors.expected(DecoderConfig.read(config));
        expected.forEach((name, shape) -> {
            float[] values = new float[Math.toIntExact(Tensor.elements(shape))];
            for (int i = 0; i < values.length; i++) {
                double wide = shape[0] == tokens + padding && i / shape[1] >= tokens ? 100 * DEVIATION : DEVIATION;
                values[i] = shape.length == 1 ? 1 : (float) (random.nextGaussian() * wide);
            }
            writer.add(name, Tensor.of(values, shape));
        });
        writer.write(directory.resolve("model.safetensors"));
        return directory;
    }

    /** Writes {@code rows} Alpaca rows as JSON lines. */
    static Path data(Path file, int rows) throws IOException {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < rows; i++) {
            lines.append(String.format(
                    "{\"instruction\": \"Say the number %d.\", \"input\": \"\", \"output\": \"It is %d.\"}%n",
                    i, i));
        }
        return Files.writeString(file, lines);
    }
}
