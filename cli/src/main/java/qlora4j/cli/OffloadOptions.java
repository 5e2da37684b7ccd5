package qlora4j.cli;

import picocli.CommandLine.Option;

/** What a training step keeps in host memory below a GPU. */
final class OffloadOptions {
    @Option(names = "--offload-activations", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "With --gradient-checkpointing on a GPU: layer inputs wait in page-locked host memory between"
                    + " forward and backward. Less GPU memory, the same numbers.")
    private boolean activations;

    boolean activations() {
        return activations;
    }
}
