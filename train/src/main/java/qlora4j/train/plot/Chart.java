package qlora4j.train.plot;

import static qlora4j.train.plot.Markup.at;
import static qlora4j.train.plot.Markup.escape;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

/**
 * Lines and bars over an x and a y axis, as an {@code svg} element. For each x there is an invisible strip with the values
 * there ({@code data-tip}, and as its {@code title}): what a page's script, or the browser itself, shows under the pointer.
 */
public final class Chart {
    private static final int LEFT = 62;
    private static final int RIGHT = 16;
    private static final int TOP = 34;
    private static final int BOTTOM = 46;
    private static final int LEGEND_GAP = 16;
    private static final double LETTER = 7.2;
    /** Strips under the pointer, at most. */
    private static final int STRIPS = 400;

    private final String title;
    private final Axis x;
    private final Axis y;
    private final List<Series> series;
    private final List<Bar> bars = new ArrayList<>();
    private final List<Mark> marks = new ArrayList<>();

    /** A bar that stands on the x axis from {@code from} to {@code to}. */
    public record Bar(double from, double to, double height, int colour, String tip) {
    }

    /** A line from bottom to top with a word at its upper end. */
    public record Mark(double x, String text, int colour) {
    }

    public Chart(String title, Axis x, Axis y, List<Series> series) {
        this.title = title;
        this.x = x;
        this.y = y;
        this.series = List.copyOf(series);
    }

    /** With bars behind the lines. */
    public Chart bars(List<Bar> more) {
        bars.addAll(more);
        return this;
    }

    /** With lines from bottom to top. */
    public Chart marks(List<Mark> more) {
        marks.addAll(more);
        return this;
    }

    /** The picture as a file of its own, with its colours. */
    public String file(int width, int height) {
        return svg(width, height, " xmlns=\"http://www.w3.org/2000/svg\" width=\"" + width + "\" height=\"" + height
                + "\"",
                "<style>" + css() + "</style><rect class=\"paper\" width=\"" + width + "\" height=\"" + height
                        + "\"/>");
    }

    /** The picture as part of a page that has {@link #css()}. */
    public String element(int width, int height) {
        return svg(width, height, "", "");
    }

    /** The colours and strokes of all charts, light and dark. */
    public static String css() {
        return Markup.resource(Chart.class, "plot.css");
    }

    private String svg(int width, int height, String attributes, String first) {
        Frame f = new Frame(LEFT, TOP, width - LEFT - RIGHT, height - TOP - BOTTOM);
        StringBuilder out = new StringBuilder();
        out.append("<svg class=\"chart\" viewBox=\"0 0 ").append(width).append(' ').append(height)
                .append("\" role=\"img\" aria-label=\"").append(escape(title)).append('"').append(attributes)
                .append(" data-top=\"").append(TOP).append("\" data-bottom=\"").append(at(f.bottom())).append("\">")
                .append(first).append("<text class=\"title\" x=\"").append(LEFT).append("\" y=\"18\">")
                .append(escape(title)).append("</text>");
        axes(out, f, height);
        legend(out, width);
        for (Bar b : bars) {
            double left = f.x(b.from);
            double top = f.y(b.height);
            out.append("<rect class=\"bar f").append(b.colour).append("\" x=\"").append(at(left)).append("\" y=\"")
                    .append(at(top)).append("\" width=\"").append(at(Math.max(0.5, f.x(b.to) - left - 0.5)))
                    .append("\" height=\"").append(at(f.bottom() - top)).append("\"><title>").append(escape(b.tip))
                    .append("</title></rect>");
        }
        for (Mark m : marks) {
            out.append("<line class=\"mark s").append(m.colour).append("\" x1=\"").append(at(f.x(m.x)))
                    .append("\" x2=\"").append(at(f.x(m.x))).append("\" y1=\"").append(TOP + 12).append("\" y2=\"")
                    .append(at(f.bottom())).append("\"/><text class=\"tick\" text-anchor=\"middle\" x=\"")
                    .append(at(f.x(m.x))).append("\" y=\"").append(TOP + 8).append("\">").append(escape(m.text))
                    .append("</text>");
        }
        series.forEach(s -> line(out, f, s));
        strips(out, f);
        return out.append("</svg>").toString();
    }

    private void axes(StringBuilder out, Frame f, int height) {
        for (Axis.Tick t : y.ticks()) {
            out.append("<line class=\"grid\" x1=\"").append(f.left).append("\" x2=\"").append(at(f.left + f.width))
                    .append("\" y1=\"").append(at(f.y(t.at()))).append("\" y2=\"").append(at(f.y(t.at())))
                    .append("\"/><text class=\"tick\" text-anchor=\"end\" x=\"").append(f.left - 6).append("\" y=\"")
                    .append(at(f.y(t.at()) + 4)).append("\">").append(escape(t.text())).append("</text>");
        }
        out.append("<line class=\"axis\" x1=\"").append(f.left).append("\" x2=\"").append(at(f.left + f.width))
                .append("\" y1=\"").append(at(f.bottom())).append("\" y2=\"").append(at(f.bottom())).append("\"/>");
        for (Axis.Tick t : x.ticks()) {
            out.append("<line class=\"axis\" x1=\"").append(at(f.x(t.at()))).append("\" x2=\"")
                    .append(at(f.x(t.at()))).append("\" y1=\"").append(at(f.bottom())).append("\" y2=\"")
                    .append(at(f.bottom() + 4)).append("\"/><text class=\"tick\" text-anchor=\"middle\" x=\"")
                    .append(at(f.x(t.at()))).append("\" y=\"").append(at(f.bottom() + 17)).append("\">")
                    .append(escape(t.text())).append("</text>");
        }
        out.append("<text class=\"label\" text-anchor=\"middle\" x=\"").append(at(f.left + f.width / 2.0))
                .append("\" y=\"").append(height - 8).append("\">").append(escape(x.label())).append("</text>")
                .append("<text class=\"label\" text-anchor=\"middle\" transform=\"translate(14 ")
                .append(at(f.top + f.height / 2.0)).append(") rotate(-90)\">").append(escape(y.label()))
                .append("</text>");
    }

    /** Names at the upper right, the last one outermost. */
    private void legend(StringBuilder out, int width) {
        if (series.size() < 2) {
            return;
        }
        double right = width - RIGHT;
        for (Series s : series.reversed()) {
            double words = s.name().length() * LETTER;
            out.append("<text class=\"tick\" text-anchor=\"end\" x=\"").append(at(right)).append("\" y=\"18\">")
                    .append(escape(s.name())).append("</text><line class=\"").append(classes(s)).append("\" x1=\"")
                    .append(at(right - words - 20)).append("\" x2=\"").append(at(right - words - 4))
                    .append("\" y1=\"14\" y2=\"14\"/>");
            right -= words + 20 + LEGEND_GAP;
        }
    }

    private static String classes(Series s) {
        return "line s" + s.colour() + (s.style() == Series.Style.RAW ? " raw" : "");
    }

    private static void line(StringBuilder out, Frame f, Series s) {
        List<Integer> drawn = s.drawn();
        StringBuilder points = new StringBuilder();
        for (int i : drawn) {
            points.append(points.isEmpty() ? "" : " ").append(at(f.x(s.x()[i]))).append(',')
                    .append(at(f.y(s.y()[i])));
        }
        out.append("<polyline class=\"").append(classes(s)).append("\" points=\"").append(points).append("\"/>");
        if (s.style() == Series.Style.DOTS || drawn.size() == 1) {
            for (int i : drawn) {
                out.append("<circle class=\"dot f").append(s.colour()).append("\" r=\"3\" cx=\"")
                        .append(at(f.x(s.x()[i]))).append("\" cy=\"").append(at(f.y(s.y()[i]))).append("\"/>");
            }
        }
    }

    /** What stands at one x. */
    private static final class Strip {
        private final StringBuilder tip = new StringBuilder();
        private final StringBuilder dots = new StringBuilder();
    }

    private void strips(StringBuilder out, Frame f) {
        TreeMap<Double, Strip> all = new TreeMap<>();
        for (Series s : series) {
            for (int i = 0; i < s.x().length; i++) {
                Strip strip = all.computeIfAbsent(s.x()[i], _ -> new Strip());
                strip.tip.append('\n').append(s.name()).append(": ").append(Markup.number(s.y()[i]));
                strip.dots.append(strip.dots.isEmpty() ? "" : " ").append(s.colour()).append(',')
                        .append(at(f.y(s.y()[i])));
            }
        }
        int every = Math.max(1, Math.ceilDiv(all.size(), STRIPS));
        List<Double> at = new ArrayList<>();
        int n = 0;
        for (double value : all.keySet()) {
            if (n++ % every == 0 || n == all.size()) {
                at.add(value);
            }
        }
        for (int i = 0; i < at.size(); i++) {
            double here = f.x(at.get(i));
            double from = i == 0 ? f.left : (f.x(at.get(i - 1)) + here) / 2;
            double to = i + 1 == at.size() ? f.left + f.width : (here + f.x(at.get(i + 1))) / 2;
            Strip strip = all.get(at.get(i));
            String tip = escape(x.label() + " " + tickOrNumber(at.get(i)) + strip.tip);
            out.append("<rect class=\"strip\" x=\"").append(at(from)).append("\" y=\"").append(f.top)
                    .append("\" width=\"").append(at(Math.max(0, to - from))).append("\" height=\"")
                    .append(f.height).append("\" data-x=\"").append(at(here)).append("\" data-dots=\"")
                    .append(strip.dots).append("\"><title>").append(tip).append("</title></rect>");
        }
    }

    private String tickOrNumber(double value) {
        return x.ticks().stream().filter(t -> t.at() == value).map(Axis.Tick::text).findFirst()
                .orElseGet(() -> Markup.number(value));
    }

    /** Where values stand in the picture. */
    private final class Frame {
        private final int left;
        private final int top;
        private final int width;
        private final int height;

        Frame(int left, int top, int width, int height) {
            this.left = left;
            this.top = top;
            this.width = width;
            this.height = height;
        }

        double x(double value) {
            return left + Math.clamp(x.share(value), 0, 1) * width;
        }

        double y(double value) {
            return top + (1 - Math.clamp(y.share(value), 0, 1)) * height;
        }

        double bottom() {
            return top + height;
        }
    }
}
