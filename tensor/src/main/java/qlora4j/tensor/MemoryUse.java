package qlora4j.tensor;

/** What memory is held for; the categories of every memory report. */
public enum MemoryUse {
    WEIGHTS, CONSTANTS, ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, KV_CACHE, WORKSPACE
}
