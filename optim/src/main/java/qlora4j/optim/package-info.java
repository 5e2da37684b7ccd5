/**
 * The optimizer: AdamW in two published formulas over flat buffers, gradient clipping, states in pages of which a
 * budget's worth is resident, learning-rate schedules.
 *
 * <p>{@link qlora4j.optim.AdamW} is what a trainer uses; {@link qlora4j.optim.OptimKernels} are its operations on a
 * device, {@link qlora4j.optim.PagedStates} its memory.
 */
package qlora4j.optim;
