package qlora4j.train.pictures;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.DoubleStream;
import qlora4j.nf4.Codebook;
import qlora4j.train.pictures.QuantizationSurvey.Matrix;
import qlora4j.train.plot.Axis;
import qlora4j.train.plot.Chart;
import qlora4j.train.plot.Series;
import qlora4j.train.plot.Series.Style;

/** A survey as SVG files. */
public final class QuantizationPictures {
    private static final int WIDTH = 900;
    private static final int HEIGHT = 420;
    private static final int MARKS = 6;
    private static final int PERCENT = 100;
    /** Lines of one chart that have colours of their own. */
    private static final int COLOURS = 8;

    private final QuantizationSurvey survey;

    public QuantizationPictures(QuantizationSurvey survey) {
        this.survey = survey;
    }

    /** Writes all pictures into a directory, which is made; returns the files. */
    public List<Path> write(Path directory) throws IOException {
        Files.createDirectories(directory);
        Map<String, Chart> charts = new LinkedHashMap<>();
        charts.put("nf4-levels.svg", levels());
        charts.put("error-by-layer.svg", byLayer("Quantization error by layer, blocks of 64",
                "RMS error / RMS weight, %", Format.values(),
                (m, f) -> PERCENT * QuantizationSurvey.relative(m, f)));
        charts.put("rmse-by-layer.svg", byLayer("RMS error by layer, blocks of 64", "RMS error", Format.values(),
                QuantizationSurvey::rmse));
        charts.put("nf4-error-by-module.svg", byModule());
        charts.put("error-by-blocksize.svg", byBlocksize());
        List<Path> files = new ArrayList<>();
        for (var e : charts.entrySet()) {
            files.add(Files.writeString(directory.resolve(e.getKey()), e.getValue().file(WIDTH, HEIGHT)));
        }
        return files;
    }

    /** The weights' histogram and the 16 values that they become. */
    private Chart levels() {
        long[] counts = survey.histogram();
        double all = Math.max(1, Arrays.stream(counts).sum());
        double width = 2.0 / counts.length;
        List<Chart.Bar> bars = new ArrayList<>();
        double highest = 0;
        for (int i = 0; i < counts.length; i++) {
            double share = PERCENT * counts[i] / all;
            highest = Math.max(highest, share);
            double from = -1 + i * width;
            bars.add(new Chart.Bar(from, from + width, share, 1,
                    String.format(Locale.ROOT, "%.3f to %.3f: %.3f %% of the weights", from, from + width, share)));
        }
        List<Chart.Mark> marks = new ArrayList<>();
        for (int code = 0; code < Codebook.SIZE; code++) {
            marks.add(new Chart.Mark(Codebook.NF4.value(code), String.valueOf(code), 2));
        }
        return new Chart("The 16 values of NF4 (by code) on the weights' histogram",
                Axis.linear("weight / absmax of its block of 64", -1, 1, 10, false),
                Axis.linear("weights in each 1/" + counts.length + " of the range, %", 0, highest * 1.1, MARKS, true),
                List.of()).bars(bars).marks(marks);
    }

    /** A number for some matrices and a format. */
    private interface Measure {
        double of(List<Matrix> matrices, Format format);
    }

    private Chart byLayer(String title, String unit, Format[] formats, Measure measure) {
        TreeMap<Integer, List<Matrix>> layers = survey.matrices().stream()
                .collect(Collectors.groupingBy(Matrix::layer, TreeMap::new, Collectors.toList()));
        double[] x = layers.keySet().stream().mapToDouble(Integer::doubleValue).toArray();
        List<Series> lines = new ArrayList<>();
        for (Format f : formats) {
            lines.add(line(f.name(), lines.size() + 1, x, layers.values().stream()
                    .mapToDouble(m -> measure.of(m, f)).toArray()));
        }
        return chart(title, layerAxis(x), unit, lines);
    }

    private Chart byModule() {
        Map<String, List<Matrix>> modules = survey.matrices().stream()
                .collect(Collectors.groupingBy(Matrix::module, LinkedHashMap::new, Collectors.toList()));
        List<Series> lines = new ArrayList<>();
        modules.forEach((module, m) -> {
            ToDoubleFunction<Matrix> error = one -> PERCENT * QuantizationSurvey.relative(List.of(one), Format.NF4);
            lines.add(line(module.substring(module.lastIndexOf('.') + 1), lines.size() % COLOURS + 1,
                    m.stream().mapToDouble(Matrix::layer).toArray(), m.stream().mapToDouble(error).toArray()));
        });
        double[] x = survey.matrices().stream().mapToDouble(Matrix::layer).distinct().sorted().toArray();
        return chart("NF4 by module", layerAxis(x), "RMS error / RMS weight, %", lines);
    }

    private Chart byBlocksize() {
        List<Series> lines = new ArrayList<>();
        List<Axis.Tick> ticks = new ArrayList<>();
        survey.bySize().forEach((format, sizes) -> {
            double[] x = sizes.keySet().stream().mapToDouble(QuantizationPictures::log2).toArray();
            if (ticks.isEmpty()) {
                sizes.keySet().forEach(s -> ticks.add(new Axis.Tick(log2(s), String.valueOf(s))));
            }
            lines.add(line(format.name(), lines.size() + 1, x,
                    sizes.values().stream().mapToDouble(e -> PERCENT * e).toArray()));
        });
        return chart("Quantization error by block size",
                new Axis("block size", ticks.getFirst().at() - 0.2, ticks.getLast().at() + 0.2, ticks),
                "RMS error / RMS weight, %", lines);
    }

    private static double log2(int powerOfTwo) {
        return Integer.numberOfTrailingZeros(powerOfTwo);
    }

    private static Series line(String name, int colour, double[] x, double[] y) {
        return new Series(name, colour, Style.DOTS, x, y);
    }

    private static Axis layerAxis(double[] layers) {
        double last = layers[layers.length - 1];
        Axis marked =
                Axis.linear("layer", layers[0], Math.max(last, layers[0] + 1), Math.min(12, layers.length), false);
        return new Axis(marked.label(), marked.low() - 0.02 * (last + 1), marked.high() + 0.02 * (last + 1),
                marked.ticks().stream().filter(t -> t.at() == Math.rint(t.at())).toList());
    }

    private static Chart chart(String title, Axis x, String unit, List<Series> lines) {
        double high = lines.stream().flatMapToDouble(s -> DoubleStream.of(s.y())).max().orElseThrow();
        double low = lines.stream().flatMapToDouble(s -> DoubleStream.of(s.y())).min().orElseThrow();
        return new Chart(title, x, Axis.linear(unit, low > high / 2 ? low : 0, high, MARKS, true), lines);
    }
}
