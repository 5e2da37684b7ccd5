package qlora4j.gguf;

/**
 * Quantization to Q8_0, bit for bit that of the reference {@code quantize_row_q8_0_ref} (ggml-quants.c) and of the Python
 * package {@code gguf}: 32 elements share the scale {@code d = max|x| / 127}, kept as float16; an element is
 * {@code round(x · (1/d))}, halves away from zero, with d before its rounding to float16.
 */
final class Q80 {
    private static final int QK = GgmlType.Q8_0.blockElements();
    private static final int MAX = 127;

    private Q80() {
    }

    /** Quantizes {@code elements} values, a multiple of 32, into {@code target}. */
    static void quantize(float[] source, byte[] target, int elements) {
        for (int from = 0, to = 0; from < elements; from += QK, to += GgmlType.Q8_0.blockBytes()) {
            float largest = 0;
            for (int j = 0; j < QK; j++) {
                largest = Math.max(largest, Math.abs(source[from + j]));
            }
            float d = largest / MAX;
            float inverse = d == 0 ? 0 : 1f / d;
            short half = Float.floatToFloat16(d);
            target[to] = (byte) half;
            target[to + 1] = (byte) (half >>> 8);
            for (int j = 0; j < QK; j++) {
                target[to + 2 + j] = (byte) roundHalfAway(source[from + j] * inverse);
            }
        }
    }

    private static int roundHalfAway(float x) {
        float floor = (float) Math.floor(Math.abs(x));
        int rounded = (int) floor + (Math.abs(x) - floor >= 0.5f ? 1 : 0);
        return x < 0 ? -rounded : rounded;
    }
}
