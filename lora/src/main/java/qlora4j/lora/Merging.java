package qlora4j.lora;

import java.util.stream.IntStream;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Tensor;

/**
 * An adapter merged into a weight, on the host, in float32: {@code W + scale·B·A}, and with DoRA each row of that scaled
 * to its magnitude (Hu et al. 2021, section 4.1; PEFT's {@code merge}).
 */
public final class Merging {
    private Merging() {
    }

    /**
     * How far a layer moves.
     *
     * @param weight the Frobenius norm of W
     * @param delta that of the merged weight minus W
     */
    public record Change(double weight, double delta) {
    }

    /**
     * Merges in place.
     *
     * @param w F32 [out, in] on the host, overwritten
     * @param scale of the module: {@link LoraConfig#scale(String)}
     */
    public static Change merge(Tensor w, AdapterWeights adapter, double scale) {
        int out = w.rows();
        int in = w.cols();
        int r = adapter.a().rows();
        if (w.dtype() != DType.F32 || adapter.a().cols() != in || adapter.b().rows() != out
                || adapter.b().cols() != r) {
            throw new IllegalArgumentException("merging A " + adapter.a() + " and B " + adapter.b() + " into " + w
                    + ": the shapes do not fit, or the weight is not F32");
        }
        float[] a = adapter.a().toFloats();
        float[] b = adapter.b().toFloats();
        float[] magnitude = adapter.magnitude() == null ? null : adapter.magnitude().toFloats();
        double[] squares = new double[out];
        double[] changes = new double[out];
        IntStream.range(0, out).parallel().forEach(o -> {
            float[] before = new float[in];
            float[] row = new float[in];
            Floats.load(w, (long) o * in, in, before, 0);
            for (int k = 0; k < r; k++) {
                float factor = b[o * r + k];
                for (int i = 0; i < in; i++) {
                    row[i] += factor * a[k * in + i];
                }
            }
            for (int i = 0; i < in; i++) {
                row[i] = before[i] + (float) scale * row[i];
            }
            if (magnitude != null) {
                scaleTo(magnitude[o], row);
            }
            for (int i = 0; i < in; i++) {
                squares[o] += (double) before[i] * before[i];
                changes[o] += ((double) row[i] - before[i]) * ((double) row[i] - before[i]);
            }
            Floats.store(row, 0, in, w, (long) o * in);
        });
        double weight = 0;
        double delta = 0;
        for (int o = 0; o < out; o++) {
            weight += squares[o];
            delta += changes[o];
        }
        return new Change(Math.sqrt(weight), Math.sqrt(delta));
    }

    /** A row of norm 0 stays as it is. */
    private static void scaleTo(float magnitude, float[] row) {
        double sum = 0;
        for (float v : row) {
            sum += (double) v * v;
        }
        float gain = sum == 0 ? 1 : magnitude / (float) Math.sqrt(sum);
        for (int i = 0; i < row.length; i++) {
            row[i] *= gain;
        }
    }
}
