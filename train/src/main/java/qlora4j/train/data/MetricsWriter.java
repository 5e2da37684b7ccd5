package qlora4j.train.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Writes {@code metrics.jsonl}: one JSON object per logged step, its number first, in the order of the steps. A run
 * that goes on from a checkpoint opens the file with that checkpoint's step: what was logged after it is dropped, since
 * those steps are done again, so that no step stands twice. Not thread-safe.
 */
public final class MetricsWriter implements AutoCloseable {
    /** The step's number: how many were done when the line was written. */
    public static final String STEP = "step";
    /** Passes over the data so far, with a fraction. */
    public static final String EPOCH = "epoch";
    /** Mean over the step's label tokens, in nats. */
    public static final String LOSS = "loss";
    /** Before clipping. */
    public static final String GRAD_NORM = "grad_norm";
    public static final String LEARNING_RATE = "learning_rate";
    /** Tokens read so far. */
    public static final String TOKENS = "tokens";
    public static final String TOKENS_PER_SECOND = "tokens_per_second";
    /** Mean over the evaluation data's label tokens, in nats. */
    public static final String EVAL_LOSS = "eval_loss";

    private static final ObjectMapper MAPPER = new ObjectMapper();

    private final Path file;
    private final FileChannel channel;

    private MetricsWriter(Path file) throws IOException {
        this.file = file;
        this.channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
                StandardOpenOption.APPEND);
    }

    /** Begins a new file, in place of one that is there. */
    public static MetricsWriter begin(Path file) throws IOException {
        Files.deleteIfExists(file);
        return new MetricsWriter(file);
    }

    /**
     * Goes on after a step: drops the lines of later ones, and a last line that was never finished, by an atomic
     * rename, so that the file is whole at any moment. A file that is not there is begun.
     *
     * @throws DataException where another line is no metrics line
     */
    public static MetricsWriter resume(Path file, int step) throws IOException {
        if (Files.exists(file)) {
            String text = Files.readString(file);
            String kept = upTo(file, text, step);
            if (!kept.equals(text)) {
                replace(file, kept);
            }
        }
        return new MetricsWriter(file);
    }

    private static String upTo(Path file, String text, int step) {
        StringBuilder kept = new StringBuilder();
        int number = 0;
        for (int start = 0, newline; (newline = text.indexOf('\n', start)) >= 0; start = newline + 1) {
            number++;
            if (step(text.substring(start, newline), file + ", line " + number) <= step) {
                kept.append(text, start, newline + 1);
            }
        }
        return kept.toString();
    }

    private static long step(String line, String where) {
        JsonNode step;
        try {
            step = MAPPER.readTree(line).path(STEP);
        } catch (JsonProcessingException e) {
            throw new DataException(where + ": not valid JSON: " + e.getOriginalMessage()
                    + "; move the file away to go on without it", e);
        }
        if (!step.isIntegralNumber()) {
            throw new DataException(
                    where + ": no \"" + STEP + "\" of a whole number; move the file away to go on without it");
        }
        return step.longValue();
    }

    private static void replace(Path file, String text) throws IOException {
        Path beside = file.resolveSibling(file.getFileName() + ".tmp");
        try (FileChannel out = FileChannel.open(beside, StandardOpenOption.CREATE, StandardOpenOption.WRITE,
                StandardOpenOption.TRUNCATE_EXISTING)) {
            writeFully(out, text);
            out.force(true);
        }
        Files.move(beside, file, StandardCopyOption.ATOMIC_MOVE);
    }

    /**
     * Appends a step's line.
     *
     * @param metrics names and values, written in the map's order; the names above where one fits
     * @throws IllegalArgumentException where a value is NaN or infinite, which JSON cannot hold and no run goes on with
     */
    public void write(int step, Map<String, ? extends Number> metrics) throws IOException {
        Map<String, Number> line = new LinkedHashMap<>();
        line.put(STEP, step);
        metrics.forEach((name, value) -> {
            if (!Double.isFinite(value.doubleValue())) {
                throw new IllegalArgumentException(file + ": " + name + " is " + value + " at step " + step);
            }
            if (line.put(name, value) != null) {
                throw new IllegalArgumentException(
                        file + ": " + name + " is no metric's name, it is the step's number");
            }
        });
        writeFully(channel, MAPPER.writeValueAsString(line) + "\n");
    }

    private static void writeFully(FileChannel channel, String text) throws IOException {
        ByteBuffer bytes = StandardCharsets.UTF_8.encode(text);
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }

    /** Brings what was written to the disk; to be called before a checkpoint that counts on it appears. */
    public void flush() throws IOException {
        channel.force(true);
    }

    @Override
    public void close() throws IOException {
        channel.close();
    }
}
