package qlora4j.cli;

import java.io.PrintWriter;
import java.util.Locale;
import java.util.Set;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Device;

/** Where a command computes. */
final class BackendOptions {
    private static final Set<Integer> VECTOR_BITS = Set.of(128, 256, 512);

    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(names = "--backend", paramLabel = "NAME", defaultValue = "auto",
            description = "auto, scalar, cpu or cuda (default: ${DEFAULT-VALUE}, the fastest that is there).")
    private String backend;

    @Option(names = "--device", paramLabel = "DEVICE", description = "cpu, cuda or cuda:N (default: the first).")
    private String device;

    @Option(names = "--threads", paramLabel = "N", defaultValue = "0",
            description = "Threads of the cpu backend; 0: one for each processor (default: ${DEFAULT-VALUE}).")
    private int threads;

    @Option(names = "--vector-bits", paramLabel = "BITS",
            description = "Width of the cpu backend's vectors: 128, 256 or 512 (default: what this CPU prefers).")
    private Integer vectorBits;

    /** Opens the backend and says on standard error what it is; the caller closes it. */
    Backend open() {
        if (vectorBits != null) {
            setVectorBits(vectorBits);
        }
        Backend opened = Backends.open(backend.toLowerCase(Locale.ROOT), device == null ? null : Device.parse(device),
                threads);
        PrintWriter err = spec.commandLine().getErr();
        err.println("backend: " + opened.describe());
        err.flush();
        return opened;
    }

    /** The width is a constant of the process: it must be set before a class that uses vectors is loaded. */
    private static void setVectorBits(int bits) {
        if (!VECTOR_BITS.contains(bits)) {
            throw new IllegalArgumentException("--vector-bits " + bits + ": expected 128, 256 or 512");
        }
        System.setProperty(Backends.VECTOR_BITS, Integer.toString(bits));
        if (Backends.vectorModulePresent() && Backends.vectorBits() != bits) {
            throw new IllegalStateException("--vector-bits " + bits + ": vectors of " + Backends.vectorBits()
                    + " bits are in use already");
        }
    }
}
