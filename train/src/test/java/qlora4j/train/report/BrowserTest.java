package qlora4j.train.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * The page in headless Chromium, light and dark, wide and narrow. Where there is no Chromium the test does not run, says
 * so and is counted as skipped.
 */
class BrowserTest {
    private static final List<String> NAMES = List.of("chromium", "chromium-browser", "google-chrome", "chrome");
    private static final int LIGHT = 1;
    private static final int DARK = 0;

    @TempDir
    private Path folder;

    private static Optional<String> chromium() {
        String path = Optional.ofNullable(System.getenv("PATH")).orElse("");
        return Stream.of(path.split(File.pathSeparator)).flatMap(d -> NAMES.stream().map(n -> Path.of(d, n)))
                .filter(Files::isExecutable).map(Path::toString).findFirst();
    }

    @Test
    void aBrowserShowsThePage() throws Exception {
        Optional<String> browser = chromium();
        if (browser.isEmpty()) {
            System.out.println("NOT RUN: there is no Chromium on the PATH; report.html was not opened in a browser");
        }
        assumeTrue(browser.isPresent(), "there is no Chromium on the PATH");
        Path page = ReportPage.write(folder, SampleRun.metrics(), SampleRun.plain());
        String dom = run(browser.get(), page, 1200, LIGHT, "--dump-dom");
        assertThat(dom).as("the script ran under the page's policy: it counts the strips").containsPattern(
                "<html[^>]* data-ready=\"[1-9]\\d*\"");

        BufferedImage light = picture(browser.get(), page, 1200, LIGHT);
        BufferedImage dark = picture(browser.get(), page, 1200, DARK);
        assertThat(luminance(light.getRGB(2, 2))).as("background of the light page").isGreaterThan(200);
        assertThat(luminance(dark.getRGB(2, 2))).as("background of the dark page").isLessThan(60);
        assertThat(colours(light)).as("text and curves are drawn").contains(0x1f6feb, 0xbc4c00);
        assertThat(colours(dark)).contains(0x6cb0ff, 0xffa657);
        assertThat(colours(picture(browser.get(), page, 500, LIGHT))).as("the narrow page").contains(0x1f6feb,
                0xbc4c00);
    }

    @Test
    void aHostileRunScriptsNothing() throws Exception {
        Optional<String> browser = chromium();
        assumeTrue(browser.isPresent(), "there is no Chromium on the PATH");
        Path page = ReportPage.write(folder, SampleRun.metrics(), SampleRun.hostile());
        String dom = run(browser.get(), page, 1200, LIGHT, "--dump-dom");
        assertThat(dom).contains("data-ready=").doesNotContain("<img").doesNotContainPattern("<[^>]*onmouseover=");
        assertThat(dom.split("<script", -1)).hasSize(2);
    }

    private BufferedImage picture(String browser, Path page, int width, int scheme) throws Exception {
        Path file = folder.resolve("picture-" + width + "-" + scheme + ".png");
        run(browser, page, width, scheme, "--screenshot=" + file);
        return ImageIO.read(file.toFile());
    }

    private String run(String browser, Path page, int width, int scheme, String what)
            throws IOException, InterruptedException {
        Path out = folder.resolve("dom.html");
        List<String> command = new ArrayList<>(List.of(browser, "--headless=new", "--no-sandbox", "--disable-gpu",
                "--no-first-run", "--user-data-dir=" + folder.resolve("profile"),
                "--host-resolver-rules=MAP * ~NOTFOUND", "--force-device-scale-factor=1",
                "--window-size=" + width + ",2400", "--blink-settings=preferredColorScheme=" + scheme, what,
                page.toUri().toString()));
        Process process = new ProcessBuilder(command).redirectOutput(out.toFile())
                .redirectError(folder.resolve("browser.log").toFile()).start();
        if (!process.waitFor(120, TimeUnit.SECONDS)) {
            process.destroyForcibly();
        }
        assertThat(process.exitValue()).as(Files.readString(folder.resolve("browser.log"))).isZero();
        return Files.readString(out);
    }

    private static int luminance(int rgb) {
        return (int) (0.2126 * (rgb >> 16 & 0xff) + 0.7152 * (rgb >> 8 & 0xff) + 0.0722 * (rgb & 0xff));
    }

    private static Set<Integer> colours(BufferedImage image) {
        Set<Integer> seen = new HashSet<>();
        for (int y = 0; y < image.getHeight(); y++) {
            for (int x = 0; x < image.getWidth(); x++) {
                seen.add(image.getRGB(x, y) & 0xffffff);
            }
        }
        return seen;
    }
}
