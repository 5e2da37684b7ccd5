package qlora4j.gguf;

import qlora4j.tensor.DType;

/**
 * The values of ggml's blocks, bit for bit those of the reference {@code dequantize_row_*} (ggml-quants.c) and of the
 * Python package {@code gguf}. Scales are float16; each product and sum is rounded to float32 once, in the order written
 * here.
 *
 * <p>With d a block's scale, m its minimum, q an element's bits as an unsigned number:
 * <ul>
 * <li>Q4_0: {@code d·(q - 8)}; Q4_1: {@code d·q + m}; Q5_0: {@code d·(q - 16)}; Q5_1: {@code d·q + m}; Q8_0: {@code d·q}
 * with q signed. 32 elements; in the 4-bit types the low nibble of byte j is element j, the high one element j + 16.
 * <li>Q4_K, Q5_K: 256 elements in eight groups of 32 with 6-bit scales and minimums: {@code (d·sc)·q - (dmin·mn)}.
 * <li>Q6_K: 256 elements in sixteen groups of 16 with 8-bit scales: {@code (d·sc)·(q - 32)}.
 * </ul>
 */
public final class Dequantizer {
    private static final int QK = 32;
    private static final int QK_K = 256;
    private static final int SCALES = 12;
    private static final int NIBBLE = 0xf;

    private Dequantizer() {
    }

    /**
     * Writes the values of whole blocks.
     *
     * @param type one of {@link GgmlType#readable}
     * @param source the blocks' bytes, from index 0 on
     * @param target receives the values, from index 0 on
     * @param elements how many: a multiple of the type's block
     */
    public static void dequantize(GgmlType type, byte[] source, float[] target, int elements) {
        int blocks = elements / type.blockElements();
        if (blocks * type.blockElements() != elements || source.length < type.bytes(elements)
                || target.length < elements) {
            throw new IllegalArgumentException(elements + " elements of " + type + " from " + source.length
                    + " bytes into " + target.length + " floats");
        }
        for (int b = 0; b < blocks; b++) {
            int from = b * type.blockBytes();
            int to = b * type.blockElements();
            switch (type) {
                case F32 -> target[to] = Float.intBitsToFloat(int16(source, from) | int16(source, from + 2) << 16);
                case F16 -> target[to] = half(source, from);
                case BF16 -> target[to] = DType.bf16ToFloat((short) int16(source, from));
                case Q8_0 -> q80(source, from, target, to);
                case Q4_0 -> q4(source, from + 2, 8, half(source, from), 0, target, to);
                case Q4_1 -> q4(source, from + 4, 0, half(source, from), half(source, from + 2), target, to);
                case Q5_0 -> q5(source, from + 2, 16, half(source, from), 0, target, to);
                case Q5_1 -> q5(source, from + 4, 0, half(source, from), half(source, from + 2), target, to);
                case Q4_K -> q4k(source, from, target, to);
                case Q5_K -> q5k(source, from, target, to);
                case Q6_K -> q6k(source, from, target, to);
                default -> throw new IllegalArgumentException("values of " + type + " cannot be read; those of "
                        + GgmlType.readable() + " can");
            }
        }
    }

    private static int int16(byte[] source, int at) {
        return source[at] & 0xff | (source[at + 1] & 0xff) << 8;
    }

    private static float half(byte[] source, int at) {
        return Float.float16ToFloat((short) int16(source, at));
    }

    private static void q80(byte[] source, int from, float[] target, int to) {
        float d = half(source, from);
        for (int j = 0; j < QK; j++) {
            target[to + j] = source[from + 2 + j] * d;
        }
    }

    private static void q4(byte[] source, int codes, int zero, float d, float m, float[] target, int to) {
        for (int j = 0; j < QK / 2; j++) {
            int b = source[codes + j] & 0xff;
            target[to + j] = affine(d, (b & NIBBLE) - zero, m, zero);
            target[to + j + QK / 2] = affine(d, (b >>> 4) - zero, m, zero);
        }
    }

    private static void q5(byte[] source, int high, int zero, float d, float m, float[] target, int to) {
        int bits = int16(source, high) | int16(source, high + 2) << 16;
        int codes = high + Integer.BYTES;
        for (int j = 0; j < QK / 2; j++) {
            int b = source[codes + j] & 0xff;
            int low = b & NIBBLE | (bits >>> j & 1) << 4;
            int upper = b >>> 4 | (bits >>> j + QK / 2 & 1) << 4;
            target[to + j] = affine(d, low - zero, m, zero);
            target[to + j + QK / 2] = affine(d, upper - zero, m, zero);
        }
    }

    /** Types around a zero point have no minimum: adding one of 0 would turn -0 into 0. */
    private static float affine(float d, int q, float m, int zero) {
        return zero != 0 ? d * q : d * q + m;
    }

    /** The 6-bit scale of group j: of the first four in their own byte, of the others four bits and two more apart. */
    private static int scale(byte[] source, int at, int j) {
        return j < 4 ? source[at + j] & 0x3f : source[at + j + 4] & NIBBLE | (source[at + j - 4] & 0xc0) >>> 2;
    }

    private static int minimum(byte[] source, int at, int j) {
        return j < 4 ? source[at + j + 4] & 0x3f
                : (source[at + j + 4] & 0xff) >>> 4 | (source[at + j] & 0xc0) >>> 2;
    }

    private static void q4k(byte[] source, int from, float[] target, int to) {
        float d = half(source, from);
        float dmin = half(source, from + 2);
        int scales = from + 4;
        int codes = scales + SCALES;
        for (int group = 0; group < QK_K / QK; group++) {
            float scaled = d * scale(source, scales, group);
            float min = dmin * minimum(source, scales, group);
            int shift = (group & 1) * 4;
            for (int j = 0; j < QK; j++) {
                int q = source[codes + group / 2 * QK + j] >>> shift & NIBBLE;
                target[to + group * QK + j] = scaled * q - min;
            }
        }
    }

    private static void q5k(byte[] source, int from, float[] target, int to) {
        float d = half(source, from);
        float dmin = half(source, from + 2);
        int scales = from + 4;
        int high = scales + SCALES;
        int codes = high + QK_K / 8;
        for (int group = 0; group < QK_K / QK; group++) {
            float scaled = d * scale(source, scales, group);
            float min = dmin * minimum(source, scales, group);
            int shift = (group & 1) * 4;
            for (int j = 0; j < QK; j++) {
                int q = source[codes + group / 2 * QK + j] >>> shift & NIBBLE
                        | (source[high + j] >>> group & 1) << 4;
                target[to + group * QK + j] = scaled * q - min;
            }
        }
    }

    /** 128 elements at a time: four runs of 32, whose low nibbles share 64 bytes and whose upper bits share 32. */
    private static void q6k(byte[] source, int from, float[] target, int to) {
        int high = from + QK_K / 2;
        int scales = high + QK_K / 4;
        float d = half(source, scales + QK_K / 16);
        for (int i = 0; i < QK_K; i++) {
            int half = i / 128;
            int run = i % 128 / QK;
            int j = i % QK;
            int low = source[from + half * 64 + (run & 1) * QK + j] >>> (run >>> 1) * 4 & NIBBLE;
            int upper = source[high + half * QK + j] >>> run * 2 & 3;
            float scaled = d * source[scales + i / 16];
            target[to + i] = scaled * ((low | upper << 4) - 32);
        }
    }
}
