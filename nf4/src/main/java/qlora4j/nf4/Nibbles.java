package qlora4j.nf4;

/**
 * Two 4-bit codes in a byte: the first element of a pair in the high nibble, the second in the low one. An odd tail's
 * low nibble holds the code of 0.
 */
public final class Nibbles {
    private Nibbles() {
    }

    /** Bytes of {@code elements} codes. */
    public static long bytes(long elements) {
        return elements / 2 + elements % 2;
    }

    /** The byte of a pair. */
    public static byte pack(int first, int second) {
        return (byte) (first << 4 | second);
    }

    /** The code of element {@code index} (its parity alone counts) from the byte that holds it. */
    public static int code(byte pair, long index) {
        return (index & 1) == 0 ? (pair & 0xff) >>> 4 : pair & 0xf;
    }
}
