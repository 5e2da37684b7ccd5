package qlora4j.bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Figures as JSON, the format that the scripts of other programs write too (bench/peers/README.md).
 *
 * @param program what was measured
 * @param machine name and value of what it ran on
 */
public record Results(String program, Map<String, String> machine, List<Figure> figures) {
    public static final String FORMAT = "qlora4j-bench-1";
    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

    public Results {
        machine = new LinkedHashMap<>(machine);
        figures = List.copyOf(figures);
    }

    /** Writes them to {@code file}, over what was there. */
    public void write(Path file) throws IOException {
        Files.writeString(file, JSON.writeValueAsString(json(Instant.now())) + "\n");
    }

    ObjectNode json(Instant now) {
        ObjectNode root = JSON.createObjectNode().put("format", FORMAT).put("program", program).put("date",
                now.truncatedTo(ChronoUnit.SECONDS).toString());
        ObjectNode m = root.putObject("machine");
        machine.forEach(m::put);
        ArrayNode list = root.putArray("figures");
        for (Figure f : figures) {
            ObjectNode o = list.addObject().put("id", f.id()).put("what", f.what()).put("threads", f.threads())
                    .put("value", f.value()).put("unit", f.unit());
            if (f.timing() != null) {
                o.put("seconds", f.timing().median()).put("best_seconds", f.timing().best()).put("samples",
                        f.timing().samples());
            }
            if (f.ceiling() > 0) {
                o.put("ceiling", f.ceiling()).put("bound", f.bound()).put("fraction", f.fraction());
            }
            if (!f.notes().isEmpty()) {
                ObjectNode notes = o.putObject("notes");
                f.notes().forEach(notes::put);
            }
        }
        return root;
    }
}
