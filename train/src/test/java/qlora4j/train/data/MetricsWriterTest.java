package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class MetricsWriterTest {
    @TempDir
    Path folder;
    private Path file;

    @BeforeEach
    void name() {
        file = folder.resolve("metrics.jsonl");
    }

    private static void steps(MetricsWriter writer, int from, int to) throws IOException {
        for (int step = from; step <= to; step++) {
            writer.write(step, Map.of(MetricsWriter.LOSS, 1.0 / step));
            writer.write(step, Map.of(MetricsWriter.EVAL_LOSS, 2f / step));
        }
    }

    @Test
    void writesOneObjectALine() throws IOException {
        Map<String, Number> metrics = new LinkedHashMap<>();
        metrics.put(MetricsWriter.EPOCH, 0.5);
        metrics.put(MetricsWriter.LOSS, 0.1f);
        metrics.put(MetricsWriter.LEARNING_RATE, 2e-4);
        metrics.put(MetricsWriter.TOKENS, 5_000_000_000L);
        Files.writeString(file, "an older run's");
        try (MetricsWriter writer = MetricsWriter.begin(file)) {
            writer.write(3, metrics);
            writer.flush();
            assertThat(file).hasContent(
                    "{\"step\":3,\"epoch\":0.5,\"loss\":0.1,\"learning_rate\":2.0E-4,\"tokens\":5000000000}\n");
        }
    }

    @Test
    void aResumedRunHasEachLineOnce() throws IOException {
        try (MetricsWriter writer = MetricsWriter.begin(file)) {
            steps(writer, 1, 9);
        }
        byte[] uninterrupted = Files.readAllBytes(file);
        for (int checkpoint = 0; checkpoint <= 9; checkpoint++) {
            try (MetricsWriter writer = MetricsWriter.resume(file, checkpoint)) {
                steps(writer, checkpoint + 1, 9);
            }
            assertThat(Files.readAllBytes(file)).as("from step %d", checkpoint).isEqualTo(uninterrupted);
        }
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files).containsExactly(file);
        }
    }

    @Test
    void aLineCutByTheEndOfARunIsDropped() throws IOException {
        try (MetricsWriter writer = MetricsWriter.begin(file)) {
            steps(writer, 1, 2);
        }
        String whole = Files.readString(file);
        Files.writeString(file, "{\"step\":2,\"lo", StandardOpenOption.APPEND);
        MetricsWriter.resume(file, 2).close();
        assertThat(file).hasContent(whole);
    }

    @Test
    void aFileThatIsNotThereIsBegun() throws IOException {
        try (MetricsWriter writer = MetricsWriter.resume(file, 4)) {
            writer.write(5, Map.of());
        }
        assertThat(file).hasContent("{\"step\":5}\n");
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            {"loss":1}    | metrics.jsonl, line 2: no "step"
            {"step":"1"}  | metrics.jsonl, line 2: no "step"
            {"step":1.5}  | metrics.jsonl, line 2: no "step"
            {"step":      | metrics.jsonl, line 2: not valid JSON
            """)
    void aForeignLineIsNamedAndNothingIsChanged(String line, String problem) throws IOException {
        String text = "{\"step\":9}\n" + line + "\n";
        Files.writeString(file, text);
        assertThatThrownBy(() -> MetricsWriter.resume(file, 3)).isInstanceOf(DataException.class)
                .hasMessageContaining(problem);
        assertThat(Files.readString(file)).isEqualTo(text);
    }

    @Test
    void refusesWhatJsonCannotHold() throws IOException {
        try (MetricsWriter writer = MetricsWriter.begin(file)) {
            for (Number value : new Number[]{Double.NaN, Float.NaN, Double.POSITIVE_INFINITY,
                    Float.NEGATIVE_INFINITY}) {
                assertThatThrownBy(() -> writer.write(7, Map.of("loss", value)))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("loss is " + value + " at step 7");
            }
            assertThatThrownBy(() -> writer.write(7, Map.of("step", 8))).isInstanceOf(IllegalArgumentException.class);
        }
        assertThat(file).isEmptyFile();
    }
}
