package qlora4j.train.plot;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.StringReader;
import java.util.List;
import java.util.stream.IntStream;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.xml.sax.InputSource;

/** Axes, thinning, smoothing, and that a picture is well-formed XML. */
class ChartTest {
    @Test
    void marksStandAtRoundNumbers() {
        assertThat(texts(Axis.linear("y", 0.13, 0.87, 5, true))).containsExactly("0", "0.2", "0.4", "0.6", "0.8",
                "1.0");
        assertThat(texts(Axis.linear("x", 1, 60, 6, false))).containsExactly("10", "20", "30", "40", "50", "60");
        assertThat(texts(Axis.linear("y", 0, 2e-4, 4, true))).containsExactly("0", "5e-5", "1e-4", "1.5e-4", "2e-4");
        assertThat(texts(Axis.linear("y", 3, 3, 4, true))).hasSizeBetween(3, 6);
        assertThat(texts(Axis.linear("y", 0, 0, 4, true))).contains("0");
        assertThatThrownBy(() -> Axis.linear("y", Double.NaN, 1, 4, true)).isInstanceOf(RuntimeException.class);
    }

    private static List<String> texts(Axis axis) {
        return axis.ticks().stream().map(Axis.Tick::text).toList();
    }

    /** By hand with weight 1/2: m = y0/2; m = y0/4 + y1/2; divided by 1/2 and 3/4. */
    @Test
    void smoothingIsCorrectedForItsBeginning() {
        assertThat(Series.smoothed(new double[]{4, 1}, 0.5)).containsExactly(4, 2);
    }

    @Test
    void aLongLineKeepsItsExtremes() {
        double[] x = IntStream.range(0, 100_000).asDoubleStream().toArray();
        double[] y = new double[x.length];
        y[77_777] = 9;
        y[33_333] = -9;
        Series line = new Series("a", 1, Series.Style.LINE, x, y);
        assertThat(line.drawn()).contains(33_333, 77_777).hasSizeLessThan(1300).isSorted();
        assertThat(new Chart("t", Axis.linear("x", 0, 1e5, 5, false), Axis.linear("y", -9, 9, 5, true), List.of(line))
                .element(400, 200).length()).isLessThan(120_000);
    }

    @Test
    void aFileIsWellFormedAndEscaped() throws Exception {
        String svg = new Chart("a < b & \"c\" \u0001", Axis.linear("<x>", 0, 2, 2, false),
                Axis.linear("y", 0, 1, 2, true),
                List.of(new Series("]]>", 1, Series.Style.DOTS, new double[]{0, 1}, new double[]{0, 1}),
                        new Series("two", 2, Series.Style.RAW, new double[]{0, 2}, new double[]{1, 1})))
                .bars(List.of(new Chart.Bar(0, 1, 0.5, 3, "<bar>"))).marks(List.of(new Chart.Mark(1, "&", 4)))
                .file(400, 300);
        var document = DocumentBuilderFactory.newInstance().newDocumentBuilder()
                .parse(new InputSource(new StringReader(svg)));
        assertThat(document.getDocumentElement().getAttribute("aria-label")).isEqualTo("a < b & \"c\" \uFFFD");
        assertThat(document.getElementsByTagName("polyline").getLength()).isEqualTo(2);
        assertThat(svg).contains("&lt;x&gt; 0\n]]&gt;: 0\ntwo: 1");
    }

    @Test
    void valuesThatAreNoNumbersAreRefused() {
        assertThatThrownBy(() -> new Series("loss", 1, Series.Style.LINE, new double[]{1}, new double[]{Double.NaN}))
                .hasMessageContaining("loss: point 0");
    }
}
