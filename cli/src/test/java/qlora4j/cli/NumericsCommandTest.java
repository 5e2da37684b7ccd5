package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.verify.numerics.Result;

/** {@code qlora numerics}: what it prints, and the page that it fills; the figures are tested where they are made. */
class NumericsCommandTest {
    @Test
    void printsEachFigureAndFillsItsColumn(@TempDir Path folder) throws IOException {
        Path page = Files.copy(Path.of("..", "docs", "numerics.md"), folder.resolve("numerics.md"));
        String written = Files.readString(page);
        Files.writeString(page, written.replaceAll("(?m)^(\\| rmsnorm \\| y \\|) [^|]+", "$1 - "));
        assertThat(Files.readString(page)).isNotEqualTo(written);
        Ran ran = Ran.run("numerics", "--backend", "scalar", "--page", page.toString());
        assertThat(ran.code()).as(ran.err()).isZero();
        assertThat(ran.out()).contains("ok        rmsnorm              y ",
                " of " + Result.values().length + " budgets exceeded")
                .containsPattern("(?m)^0 of \\d+ budgets").doesNotContain("EXCEEDED");
        assertThat(page).hasContent(written);
    }

    @Test
    void anotherFileIsNotOverwritten(@TempDir Path folder) throws IOException {
        Path page = Files.writeString(folder.resolve("other.md"), "# Another page\n");
        Ran ran = Ran.run("numerics", "--backend", "scalar", "--page", page.toString());
        assertThat(ran.code()).isEqualTo(2);
        assertThat(ran.err()).contains(page.toString()).doesNotContain("\tat ");
        assertThat(page).hasContent("# Another page");
    }
}
