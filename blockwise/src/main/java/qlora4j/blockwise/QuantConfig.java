package qlora4j.blockwise;

/**
 * How a tensor is held in 4 bits.
 *
 * @param type the codebook
 * @param blocksize elements that share a constant: a power of two, 32 to 4096
 * @param nested whether the constants are themselves quantized (double quantization)
 */
public record QuantConfig(QuantType type, int blocksize, boolean nested) {
    /** Constants that share a second-level constant. */
    public static final int NESTED_BLOCKSIZE = 256;
    public static final int MIN_BLOCKSIZE = 32;
    public static final int MAX_BLOCKSIZE = 4096;

    /** NF4 in blocks of 64 with double quantization: QLoRA's configuration. */
    public static final QuantConfig QLORA = new QuantConfig(QuantType.NF4, 64, true);

    public QuantConfig {
        checkBlocksize(blocksize);
    }

    static void checkBlocksize(int blocksize) {
        if (blocksize < MIN_BLOCKSIZE || blocksize > MAX_BLOCKSIZE || Integer.bitCount(blocksize) != 1) {
            throw new IllegalArgumentException("blocksize " + blocksize + ": expected a power of two from "
                    + MIN_BLOCKSIZE + " to " + MAX_BLOCKSIZE);
        }
    }

    /** Constants of {@code elements} elements. */
    public long blocks(long elements) {
        return blocks(elements, blocksize);
    }

    /** Second-level constants of {@code elements} elements. */
    public long nestedBlocks(long elements) {
        return blocks(blocks(elements), NESTED_BLOCKSIZE);
    }

    static long blocks(long elements, int blocksize) {
        return (elements + blocksize - 1) / blocksize;
    }
}
