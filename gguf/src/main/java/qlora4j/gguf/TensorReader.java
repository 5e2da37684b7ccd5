package qlora4j.gguf;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The values of a file's tensors, a few rows at a time. */
final class TensorReader {
    /** Elements that are converted at once: some megabytes. */
    private static final int PIECE = 1 << 19;

    private TensorReader() {
    }

    /** All values of a small tensor. */
    static float[] values(Gguf gguf, GgufTensor tensor) {
        byte[] bytes = gguf.segment(tensor).toArray(ValueLayout.JAVA_BYTE);
        float[] values = new float[Math.toIntExact(tensor.elements())];
        Dequantizer.dequantize(tensor.type(), bytes, values, values.length);
        return values;
    }

    /**
     * Writes a tensor's values as {@code dtype}, in Hugging Face's order of rows.
     *
     * @param layout how the file has the rows; null for in the same order
     */
    static void write(Gguf gguf, GgufTensor tensor, RotaryLayout layout, DType dtype, SafetensorsWriter.Sink sink)
            throws IOException {
        MemorySegment data = gguf.segment(tensor);
        // A vector whose elements are to be reordered is a matrix of one column.
        long row = layout != null && tensor.shape().length == 1 ? 1 : tensor.rowElements();
        if (tensor.elements() == 0) {
            return;
        }
        long rows = tensor.elements() / row;
        if (Math.max(row, tensor.type().bytes(row)) > Integer.MAX_VALUE) {
            throw new IOException(gguf.file() + ": tensor " + tensor.name() + " has rows of " + row + " elements");
        }
        int rowBytes = (int) tensor.type().bytes(row);
        int most = (int) Math.max(1, Math.min(rows, PIECE / Math.max(1, row)));
        byte[] bytes = new byte[Math.multiplyExact(most, rowBytes)];
        float[] values = new float[Math.multiplyExact(most, (int) row)];
        Tensor converted = tensor.type().plain() == dtype ? null : Tensor.zeros(dtype, values.length);
        for (long from = 0; from < rows; from += most) {
            int n = (int) Math.min(most, rows - from);
            if (layout == null) {
                copy(data, from * rowBytes, bytes, 0, n * rowBytes);
            } else {
                for (int i = 0; i < n; i++) {
                    copy(data, layout.ggufRow(from + i) * rowBytes, bytes, i * rowBytes, rowBytes);
                }
            }
            int elements = n * (int) row;
            if (tensor.type().plain() == dtype) {
                sink.write(MemorySegment.ofArray(bytes).asSlice(0, (long) n * rowBytes));
                continue;
            }
            Dequantizer.dequantize(tensor.type(), bytes, values, elements);
            Tensor piece = Tensor.of(DType.F32,
                    MemorySegment.ofArray(values).asSlice(0, DType.F32.bytes(elements)), elements);
            sink.write(converted.slice(0, elements).copyFrom(piece).data());
        }
    }

    private static void copy(MemorySegment from, long at, byte[] to, int index, int n) {
        MemorySegment.copy(from, ValueLayout.JAVA_BYTE, at, to, index, n);
    }
}
