package qlora4j.train.report;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.train.data.DataException;
import qlora4j.train.data.MetricsWriter;

/** What a run logged: the lines of {@code metrics.jsonl}, in the order of the steps. */
public record Metrics(List<Map<String, Double>> lines) {
    /** The file's name in a run's directory. */
    public static final String FILE = "metrics.jsonl";
    private static final ObjectMapper MAPPER = new ObjectMapper();

    /** A metric over the steps at which it was logged; both as long. */
    public record Curve(double[] steps, double[] values) {
        /** Whether it was ever logged. */
        public boolean isEmpty() {
            return steps.length == 0;
        }

        /** Its last value. */
        public double last() {
            return values[values.length - 1];
        }
    }

    public Metrics {
        lines = List.copyOf(lines);
    }

    /**
     * Reads the file. A last line that was never finished, as a killed run leaves it, is left out.
     *
     * @throws DataException where another line is no metrics line; it is named
     */
    public static Metrics read(Path file) throws IOException {
        String text = Files.readString(file);
        List<Map<String, Double>> lines = new ArrayList<>();
        int number = 0;
        for (int from = 0; from < text.length();) {
            int end = text.indexOf('\n', from);
            if (end < 0) {
                break;
            }
            number++;
            String line = text.substring(from, end);
            if (!line.isBlank()) {
                lines.add(line(file + ":" + number, line));
            }
            from = end + 1;
        }
        return new Metrics(lines);
    }

    private static Map<String, Double> line(String where, String text) {
        JsonNode json;
        try {
            json = MAPPER.readTree(text);
        } catch (JsonProcessingException e) {
            throw new DataException(where + ": not valid JSON: " + e.getOriginalMessage(), e);
        }
        if (!json.path(MetricsWriter.STEP).isIntegralNumber()) {
            throw new DataException(where + ": no \"" + MetricsWriter.STEP + "\" of a whole number");
        }
        Map<String, Double> values = new LinkedHashMap<>();
        json.properties().forEach(e -> {
            if (e.getValue().isNumber()) {
                values.put(e.getKey(), e.getValue().doubleValue());
            }
        });
        return values;
    }

    /** One metric, by its name in the file. */
    public Curve curve(String name) {
        List<Map<String, Double>> with = lines.stream().filter(l -> l.containsKey(name)).toList();
        return new Curve(with.stream().mapToDouble(l -> l.get(MetricsWriter.STEP)).toArray(),
                with.stream().mapToDouble(l -> l.get(name)).toArray());
    }
}
