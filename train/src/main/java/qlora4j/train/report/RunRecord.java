package qlora4j.train.report;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import qlora4j.train.data.DataException;

/**
 * What a report says beside the metrics. It is kept as {@code run.json} in the run's directory, from the run's beginning
 * on, so that a page can be made of a run that was broken off, too.
 *
 * @param title what was done, to which model
 * @param started when, in ISO 8601
 * @param seconds how long the run took; null while it goes on, or where it was broken off
 * @param facts lines about data and parameters, by name
 * @param configuration flags and their values
 * @param environment the machine and the program
 * @param predicted bytes by use, as predicted; may be empty
 * @param measured bytes by use, as held at the end; empty before
 * @param peak the most bytes held at once on the device; 0 before the end
 * @param samplesOf where the samples' prompts come from
 * @param samples texts before and after
 */
public record RunRecord(String title, String started, Double seconds, Map<String, String> facts,
        Map<String, String> configuration, Map<String, String> environment, Map<String, Long> predicted,
        Map<String, Long> measured, long peak, String samplesOf, List<Sample> samples) {
    /** The file's name in a run's directory. */
    public static final String FILE = "run.json";
    private static final ObjectMapper MAPPER =
            new ObjectMapper().disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES);

    /**
     * A prompt and what is written for it.
     *
     * @param reference what the data have
     * @param before what the base model wrote
     * @param after what the adapter wrote
     */
    public record Sample(String prompt, String reference, String before, String after) {
    }

    public RunRecord {
        facts = orEmpty(facts);
        configuration = orEmpty(configuration);
        environment = orEmpty(environment);
        predicted = orEmpty(predicted);
        measured = orEmpty(measured);
        samples = samples == null ? List.of() : List.copyOf(samples);
    }

    private static <V> Map<String, V> orEmpty(Map<String, V> map) {
        return map == null ? Map.of() : new LinkedHashMap<>(map);
    }

    /** A run that begins now. */
    public static RunRecord begun(String title, String started, Map<String, String> facts,
            Map<String, String> configuration, Map<String, String> environment, Map<String, Long> predicted) {
        return new RunRecord(title, started, null, facts, configuration, environment, predicted, Map.of(), 0, null,
                List.of());
    }

    /** The same with a line more. */
    public RunRecord withFact(String name, String value) {
        Map<String, String> more = new LinkedHashMap<>(facts);
        more.put(name, value);
        return new RunRecord(title, started, seconds, more, configuration, environment, predicted, measured, peak,
                samplesOf, samples);
    }

    /** The same at the run's end. */
    public RunRecord ended(double duration, Map<String, Long> held, long most) {
        return new RunRecord(title, started, duration, facts, configuration, environment, predicted, held, most,
                samplesOf, samples);
    }

    /** The same with texts before and after. */
    public RunRecord with(String from, List<Sample> texts) {
        return new RunRecord(title, started, seconds, facts, configuration, environment, predicted, measured, peak,
                from, texts);
    }

    /** Writes it into a run's directory, by a rename. */
    public void write(Path directory) throws IOException {
        Path file = directory.resolve(FILE);
        Path beside = directory.resolve(FILE + ".tmp");
        Files.writeString(beside, MAPPER.writerWithDefaultPrettyPrinter().writeValueAsString(this) + "\n");
        Files.move(beside, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    /** That of a run's directory, if there is one. */
    public static Optional<RunRecord> read(Path directory) throws IOException {
        Path file = directory.resolve(FILE);
        if (!Files.exists(file)) {
            return Optional.empty();
        }
        try {
            return Optional.of(MAPPER.readValue(Files.readString(file), RunRecord.class));
        } catch (JsonProcessingException e) {
            throw new DataException(file + ": not a run's record: " + e.getOriginalMessage()
                    + "; move it away to make a report without it", e);
        }
    }
}
