package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.util.stream.IntStream;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * A float32 matrix in 8 bits without loss: each run of {@link #BLOCK} numbers of a row is a float32 constant times whole
 * numbers of -127 to 127. That is what a matrix looks like that was once GGUF's Q8_0 and has been written as float32.
 *
 * @param codes I8 [rows, cols]
 * @param scales F32 [rows, cols / BLOCK]
 */
public record ExactInt8(Tensor codes, Tensor scales) {
    /** Numbers that share a constant: as in Q8_0. */
    public static final int BLOCK = 32;
    /** A narrower matrix is left as it is: so a row has at least a whole vector of codes. */
    public static final int LEAST_COLUMNS = 64;
    private static final int MOST = 127;

    /**
     * The matrix in 8 bits, where each of its numbers is the very same after {@code code · scale}; else null.
     *
     * @param w F32 [rows, cols] on the host, {@code cols} a multiple of {@link #BLOCK} and at least
     *         {@link #LEAST_COLUMNS}; others give null
     */
    public static ExactInt8 of(Backend backend, Tensor w) {
        if (w.dtype() != DType.F32 || w.rank() != 2 || w.rows() == 0 || w.cols() % BLOCK != 0
                || w.cols() < LEAST_COLUMNS || !backend.device().isHost()) {
            return null;
        }
        // Most matrices are told by their first row.
        if (!convert(w, 0, new byte[w.cols()], new float[w.cols() / BLOCK])) {
            return null;
        }
        // Both in one piece of memory, which is given back where a later row does not fit.
        long codeBytes = Math.ceilDiv(w.size(), 64L) * 64;
        Allocation memory = backend.allocate(codeBytes + DType.F32.bytes(w.size() / BLOCK), MemoryUse.WEIGHTS);
        Tensor codes = memory.tensor(0, DType.I8, w.shape());
        Tensor scales = memory.tensor(codeBytes, DType.F32, w.rows(), w.cols() / BLOCK);
        boolean exact = IntStream.range(0, w.rows()).parallel().allMatch(row -> {
            byte[] whole = new byte[w.cols()];
            float[] constants = new float[w.cols() / BLOCK];
            if (!convert(w, row, whole, constants)) {
                return false;
            }
            MemorySegment.copy(whole, 0, codes.data(), Elements.BYTE, (long) row * whole.length, whole.length);
            MemorySegment.copy(constants, 0, scales.data(), Elements.FLOAT, 4L * row * constants.length,
                    constants.length);
            return true;
        });
        if (!exact) {
            memory.close();
            return null;
        }
        return new ExactInt8(codes, scales);
    }

    /** Writes a row's codes and constants; false where one of its numbers would be another. */
    private static boolean convert(Tensor w, int row, byte[] codes, float[] scales) {
        float[] values = new float[codes.length];
        MemorySegment.copy(w.data(), Elements.FLOAT, 4L * row * values.length, values, 0, values.length);
        for (int j = 0; j < scales.length; j++) {
            float most = 0;
            for (int i = j * BLOCK; i < (j + 1) * BLOCK; i++) {
                most = Math.max(most, Math.abs(values[i]));
            }
            // Q8_0's largest code is 127.
            float scale = most / MOST;
            float reciprocal = scale == 0 ? 0 : 1 / scale;
            int wrong = 0;
            for (int i = j * BLOCK; i < (j + 1) * BLOCK; i++) {
                // A number that fits is nearly whole here. An infinity or a NaN gives a code that does not.
                int code = (int) (values[i] * reciprocal + Math.copySign(0.5f, values[i]));
                codes[i] = (byte) code;
                // As bits: minus zero has no code, and a NaN equals nothing.
                wrong |= Float.floatToRawIntBits(code * scale) ^ Float.floatToRawIntBits(values[i]);
            }
            if (wrong != 0) {
                return false;
            }
            scales[j] = scale;
        }
        return true;
    }

    public int rows() {
        return codes.rows();
    }

    public int cols() {
        return codes.cols();
    }

    /** Bytes of codes and constants. */
    public long bytes() {
        return codes.bytes() + scales.bytes();
    }
}
