package qlora4j.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Figures as numbers, as lines and as JSON. */
class ReportTest {
    private static final Timing TIMING = Timing.of(List.of(0.5, 0.25, 2.0));

    /** 10 tokens in 0.5 s that cost 4e9 operations, where 16e9 a second are possible: 20 of 40 tok/s. */
    private static Figure step() {
        return Figure.rate("step", "training step", 2, TIMING, 10, "tok/s", 4e9, Ceilings.Bound.FLOPS, 16e9);
    }

    @Test
    void medianAndBestOfTheSamples() {
        assertThat(TIMING).isEqualTo(new Timing(0.5, 0.25, 3));
    }

    @Test
    void aRateIsHeldAgainstItsCeiling() {
        assertThat(step().value()).isEqualTo(20);
        assertThat(step().ceiling()).isEqualTo(40);
        assertThat(step().fraction()).isEqualTo(0.5);
    }

    @Test
    void anUnknownCeilingIsNone() {
        Figure f = Figure.rate("step", "x", 2, TIMING, 10, "tok/s", 4e9, Ceilings.Bound.FLOPS, 0);
        assertThat(f.fraction()).isZero();
        assertThat(Table.line(f)).endsWith("20.0 tok/s");
    }

    @Test
    void aFigureThatIsNoNumberIsRefused() {
        assertThatThrownBy(() -> new Figure("x", "x", 1, TIMING, Double.NaN, "GB", 0, "", Map.of()))
                .hasMessageContaining("NaN");
    }

    @Test
    void columnsStandBelowEachOther() {
        String header = Table.header();
        String line = Table.line(step());
        assertThat(line).startsWith("training step ").endsWith("50 %").hasSameSizeAs(header);
        assertThat(line).containsSubsequence("500 ms", "20.0 tok/s", "40.0 tok/s");
        assertThat(header.indexOf("rate") + 4).isEqualTo(line.indexOf("20.0 tok/s") + 10);
    }

    @Test
    void numbersHaveThreeDigits() {
        assertThat(List.of(0.1234, 1.234, 12.34, 123.4, 1234.5, 1234567.0).stream().map(Table::number))
                .containsExactly("0.123", "1.23", "12.3", "123", "1,235", "1,234,567");
        assertThat(List.of(2e-6, 0.5e-3, 0.0123, 4.5).stream().map(Table::time))
                .containsExactly("2.00 us", "500 us", "12.3 ms", "4.50 s");
    }

    @Test
    void jsonHoldsWhatTheScriptsOfOtherProgramsWrite() {
        Figure memory = new Figure("step.memory", "peak", 0, null, 1.5, "GB", 0, "", Map.of());
        JsonNode json = new Results("qlora4j", Map.of("backend", "cpu"), List.of(step().with("gflop_per_s", 8), memory))
                .json(Instant.parse("2026-01-02T03:04:05.678Z"));
        assertThat(json.path("format").asText()).isEqualTo(Results.FORMAT);
        assertThat(json.path("date").asText()).isEqualTo("2026-01-02T03:04:05Z");
        assertThat(json.at("/machine/backend").asText()).isEqualTo("cpu");
        JsonNode first = json.at("/figures/0");
        assertThat(first.path("id").asText()).isEqualTo("step");
        assertThat(first.path("threads").asInt()).isEqualTo(2);
        assertThat(first.path("value").asDouble()).isEqualTo(20);
        assertThat(first.path("seconds").asDouble()).isEqualTo(0.5);
        assertThat(first.path("best_seconds").asDouble()).isEqualTo(0.25);
        assertThat(first.path("samples").asInt()).isEqualTo(3);
        assertThat(first.path("bound").asText()).isEqualTo("flops");
        assertThat(first.path("fraction").asDouble()).isEqualTo(0.5);
        assertThat(first.at("/notes/gflop_per_s").asDouble()).isEqualTo(8);
        assertThat(json.at("/figures/1").has("seconds")).isFalse();
        assertThat(json.at("/figures/1").has("ceiling")).isFalse();
    }

    @Test
    void jsonIsWritten(@TempDir Path folder) throws IOException {
        Path file = folder.resolve("out.json");
        new Results("qlora4j", Map.of(), List.of(step())).write(file);
        assertThat(new ObjectMapper().readTree(Files.readString(file)).path("figures")).hasSize(1);
    }
}
