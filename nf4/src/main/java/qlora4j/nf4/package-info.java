/**
 * 4-bit data types: the NormalFloat codebook and its derivation from normal quantiles, the FP4 codebook, decision
 * thresholds, normalization by a block's largest magnitude, and nibble packing. It depends on nothing else of the
 * project.
 */
package qlora4j.nf4;
