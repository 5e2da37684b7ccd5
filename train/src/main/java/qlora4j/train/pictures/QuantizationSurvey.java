package qlora4j.train.pictures;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantConfig;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * What 4-bit formats lose of the weights of a model's linear layers. Errors are taken over the first {@link #MOST} weights
 * of each matrix; those by block size over the first {@link #MOST_BY_SIZE}.
 *
 * @param matrices each matrix, in the order of the layers
 * @param bySize the relative error over all of them, by format and block size
 * @param histogram how many weights, divided by the absmax of their block of 64, fall into each of equal parts of [-1, 1]
 */
public record QuantizationSurvey(List<Matrix> matrices, Map<Format, TreeMap<Integer, Double>> bySize,
        long[] histogram) {
    /** Weights of a matrix that are measured, at most. */
    public static final int MOST = 1 << 20;
    /** The same for the errors by block size. */
    public static final int MOST_BY_SIZE = 1 << 16;
    /** The block size of QLoRA. */
    public static final int BLOCKSIZE = QuantConfig.QLORA.blocksize();
    /** Parts of the histogram. */
    public static final int PARTS = 201;

    private static final Pattern NAME = Pattern.compile("(?:.*\\.)?layers\\.(\\d+)\\.(.+)\\.weight");

    /**
     * One matrix.
     *
     * @param layer counted from 0
     * @param module such as {@code mlp.up_proj}
     * @param weights how many were measured
     * @param squares the sum of their squares
     * @param errors the sum of the squared errors, by format, in blocks of 64
     */
    public record Matrix(int layer, String module, long weights, double squares, Map<Format, Double> errors) {
    }

    /**
     * Measures a checkpoint.
     *
     * @param stream of a backend on the host
     * @param done sees the name of each matrix that was measured
     * @throws IllegalArgumentException where the checkpoint has no dense matrices of linear layers
     */
    public static QuantizationSurvey of(SafetensorsView view, Stream stream, Consumer<String> done) {
        Map<Integer, Map<String, String>> names = names(view);
        List<Matrix> matrices = new ArrayList<>();
        Map<Format, TreeMap<Integer, Double>> bySize = new EnumMap<>(Format.class);
        double squares = 0;
        long[] histogram = new long[PARTS];
        for (var layer : names.entrySet()) {
            for (var module : layer.getValue().entrySet()) {
                float[] w = first(view.tensor(module.getValue()), MOST);
                Map<Format, Double> errors = new EnumMap<>(Format.class);
                for (Format f : Format.values()) {
                    errors.put(f, f.squaredError(stream, w, BLOCKSIZE));
                }
                matrices.add(new Matrix(layer.getKey(), module.getKey(), w.length, squares(w), errors));
                count(w, histogram);
                float[] few = w.length <= MOST_BY_SIZE ? w : Arrays.copyOf(w, MOST_BY_SIZE);
                squares += squares(few);
                for (Format f : Format.values()) {
                    for (int size = QuantConfig.MIN_BLOCKSIZE; size <= QuantConfig.MAX_BLOCKSIZE; size *= 2) {
                        bySize.computeIfAbsent(f, _ -> new TreeMap<>()).merge(size, f.squaredError(stream, few, size),
                                Double::sum);
                    }
                }
                done.accept(module.getValue());
            }
        }
        double all = squares;
        bySize.values().forEach(sizes -> sizes.replaceAll((_, error) -> Math.sqrt(error / all)));
        return new QuantizationSurvey(matrices, bySize, histogram);
    }

    /** The matrices of linear layers by layer and module. */
    private static Map<Integer, Map<String, String>> names(SafetensorsView view) {
        Map<Integer, Map<String, String>> names = new TreeMap<>();
        for (String name : view.names()) {
            Matcher m = NAME.matcher(name);
            if (!m.matches()) {
                continue;
            }
            if (Bnb4bit.contains(view, name)) {
                throw new IllegalArgumentException(
                        name + " is in 4 bits already: --plot compares with the weights before"
                                + " quantization; give the dense model");
            }
            if (view.info(name).shape().length == 2) {
                names.computeIfAbsent(Integer.valueOf(m.group(1)), _ -> new LinkedHashMap<>()).put(m.group(2), name);
            }
        }
        if (names.isEmpty()) {
            throw new IllegalArgumentException(
                    "--plot: no matrix is called ...layers.N.MODULE.weight, as the linear layers"
                            + " of a decoder are");
        }
        return names;
    }

    private static float[] first(Tensor t, int most) {
        return t.view(1, t.size()).slice(0, 1, Math.min(t.size(), most)).toFloats();
    }

    private static double squares(float[] w) {
        double sum = 0;
        for (float x : w) {
            sum += (double) x * x;
        }
        return sum;
    }

    private static void count(float[] w, long[] histogram) {
        for (int from = 0; from < w.length; from += BLOCKSIZE) {
            int to = Math.min(w.length, from + BLOCKSIZE);
            float absmax = Format.absmax(w, from, to);
            for (int i = from; i < to && absmax > 0; i++) {
                histogram[(int) Math.min(PARTS - 1, (w[i] / absmax + 1) / 2 * PARTS)]++;
            }
        }
    }

    /** The root of the mean squared error of the matrices that are chosen. */
    public static double rmse(List<Matrix> chosen, Format format) {
        return Math.sqrt(chosen.stream().mapToDouble(m -> m.errors.get(format)).sum()
                / chosen.stream().mapToLong(Matrix::weights).sum());
    }

    /** The same divided by the root of the weights' mean square. */
    public static double relative(List<Matrix> chosen, Format format) {
        return Math.sqrt(chosen.stream().mapToDouble(m -> m.errors.get(format)).sum()
                / chosen.stream().mapToDouble(Matrix::squares).sum());
    }
}
