package qlora4j.gguf;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Writes tensors into a file, a few rows at a time. */
final class TensorWriter {
    /** Elements that are converted at once: some megabytes. */
    private static final int PIECE = 1 << 19;
    /** The largest finite float16. */
    private static final float MAX_HALF = 65504;

    private TensorWriter() {
    }

    /** The type for a tensor of a model whose matrices are to be {@code wanted}: vectors stay float32, as llama.cpp has them. */
    static GgmlType type(GgmlType wanted, long[] shape) {
        if (shape.length < 2) {
            return GgmlType.F32;
        }
        return shape[shape.length - 1] % wanted.blockElements() == 0 ? wanted : GgmlType.F16;
    }

    /**
     * Writes a host tensor, in GGUF's order of rows.
     *
     * @param name for errors
     * @param layout how the file is to have the rows; null for in the same order
     */
    static void write(String name, Tensor source, RotaryLayout layout, GgmlType type, GgufWriter.Sink sink)
            throws IOException {
        long row = layout != null && source.rank() == 1 ? 1 : source.rank() == 0 ? 1 : source.dim(source.rank() - 1);
        long rows = row == 0 ? 0 : source.size() / row;
        Tensor matrix = source.view(rows, row);
        int most = (int) Math.max(1, Math.min(rows, PIECE / Math.max(1, row)));
        Tensor staging = Tensor.zeros(DType.F32, most, row);
        Tensor narrow = type == GgmlType.F16 || type == GgmlType.BF16 ? Tensor.zeros(type.plain(), most, row) : null;
        for (long from = 0; from < rows; from += most) {
            int n = (int) Math.min(most, rows - from);
            Tensor values = staging.rows(0, n);
            if (layout == null) {
                values.copyFrom(matrix.rows(from, from + n));
            } else {
                for (int i = 0; i < n; i++) {
                    long r = layout.huggingFaceRow(from + i);
                    values.rows(i, i + 1).copyFrom(matrix.rows(r, r + 1));
                }
            }
            sink.write(encoded(name, values, type, narrow));
        }
    }

    private static MemorySegment encoded(String name, Tensor values, GgmlType type, Tensor narrow) throws IOException {
        switch (type) {
            case F32 -> {
                return values.data();
            }
            case BF16 -> {
                return narrow.rows(0, values.dim(0)).copyFrom(values).data();
            }
            case F16 -> {
                for (float v : values.toFloats()) {
                    if (Math.abs(v) > MAX_HALF && !Float.isInfinite(v)) {
                        throw new IOException(
                                "tensor " + name + " holds " + v + ", which passes float16's largest value "
                                        + MAX_HALF + "; export as bf16, q8_0 or f32");
                    }
                }
                return narrow.rows(0, values.dim(0)).copyFrom(values).data();
            }
            case Q8_0 -> {
                float[] floats = values.toFloats();
                byte[] blocks = new byte[Math.toIntExact(type.bytes(floats.length))];
                Q80.quantize(floats, blocks, floats.length);
                return MemorySegment.ofArray(blocks);
            }
            default -> throw new IllegalArgumentException(type + " cannot be written");
        }
    }
}
