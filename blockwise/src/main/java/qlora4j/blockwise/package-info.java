/**
 * Block-wise quantization: 4-bit weights with plain or doubly quantized constants, 8-bit dynamic maps, products with
 * quantized matrices, and bitsandbytes' 4-bit checkpoint layout. {@link qlora4j.blockwise.Blockwise} is the way in.
 */
package qlora4j.blockwise;
