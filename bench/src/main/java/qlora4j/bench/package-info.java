/**
 * Figures of the user's own machine beside its measured ceilings: what {@code qlora bench} prints. Everything runs
 * through backends and streams, so the same code times the CPU and a GPU.
 */
package qlora4j.bench;
