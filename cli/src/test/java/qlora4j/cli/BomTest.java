package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** The BOM names every module that has a jar, in the project's version. */
class BomTest {
    private static final Path ROOT = Path.of("..");
    private static final List<String> WITHOUT_JAR = List.of("bom", "dist");

    @Test
    void theBomNamesEveryModule() throws IOException {
        String root = Files.readString(ROOT.resolve("pom.xml"));
        String bom = Files.readString(ROOT.resolve("bom/pom.xml"));
        List<String> modules = all("<module>(.*?)</module>", root).stream().filter(m -> !WITHOUT_JAR.contains(m))
                .toList();
        assertThat(modules).isNotEmpty();
        assertThat(all("<artifactId>qlora4j-(\\w+)</artifactId>", bom)).contains("bom")
                .filteredOn(m -> !WITHOUT_JAR.contains(m)).containsExactlyInAnyOrderElementsOf(modules);
        String version = all("<artifactId>qlora4j</artifactId>\\s*<version>(.*?)</version>", root).getFirst();
        assertThat(bom).contains("<artifactId>qlora4j-bom</artifactId>\n  <version>" + version + "</version>");
    }

    private static List<String> all(String regex, String text) {
        return Pattern.compile(regex).matcher(text).results().map((MatchResult m) -> m.group(1)).toList();
    }
}
