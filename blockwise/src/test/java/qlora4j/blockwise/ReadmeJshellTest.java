package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import org.junit.jupiter.api.Test;

/** The README's lines for jshell are at most ten and print what stands below them. */
class ReadmeJshellTest {
    private static final Path README = Path.of("../README.md");
    private static final int MOST_LINES = 10;
    /** What jshell imports by itself, as far as the lines use it. */
    private static final String DEFAULT_IMPORTS = "import java.util.*;\nimport java.util.stream.*;";

    @Test
    void theLinesOfTheReadmePrintWhatItSays() throws IOException {
        List<String> readme = Files.readAllLines(README);
        int from = readme.indexOf("```jshell") + 1;
        assertThat(from).as("a block of jshell in the README").isPositive();
        int end = from + readme.subList(from, readme.size()).indexOf("```");
        List<String> lines = readme.subList(from, end);
        assertThat(lines).hasSizeBetween(1, MOST_LINES);
        String promised = readme.subList(end, readme.size()).stream().filter(l -> l.contains("bits a weight"))
                .findFirst().orElseThrow();

        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream before = System.out;
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try (JShell shell = JShell.builder().executionEngine("local").build()) {
            shell.addToClasspath(System.getProperty("java.class.path"));
            run(shell, DEFAULT_IMPORTS);
            lines.forEach(l -> run(shell, l));
        } finally {
            System.setOut(before);
        }
        assertThat(printed.toString(StandardCharsets.UTF_8).strip()).isNotEmpty();
        assertThat(promised).contains(printed.toString(StandardCharsets.UTF_8).strip());
    }

    private static void run(JShell shell, String line) {
        for (String rest = line; !rest.isEmpty();) {
            var complete = shell.sourceCodeAnalysis().analyzeCompletion(rest);
            for (SnippetEvent event : shell.eval(complete.source())) {
                assertThat(event.exception()).as(line).isNull();
                assertThat(event.status()).as("%s: %s", line,
                        shell.diagnostics(event.snippet()).map(d -> d.getMessage(null)).toList())
                        .isEqualTo(Snippet.Status.VALID);
            }
            rest = complete.remaining().strip();
        }
    }
}
