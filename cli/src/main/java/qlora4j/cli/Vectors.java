package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.verify.vectors.VectorBundle;

/** {@code qlora vectors}: makes the test vectors, or a backend's answers to them. */
@Command(name = "vectors", description = {
        "Writes the test vectors of the specification (verify/SPEC.md), made by the scalar backend, into a folder.",
        "With --dump: writes a backend's own results into one file, as another implementation would hand them in to"
                + " `qlora verify FILE --against VECTORS`."})
final class Vectors implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "OUTPUT", description = "The folder; with --dump the file.")
    private Path output;

    @Option(names = "--dump", description = "Write the results of --backend alone.")
    private boolean dump;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        if (dump) {
            try (Backend opened = backend.open()) {
                VectorBundle.dump(output, opened);
            }
        } else {
            try (Backend scalar = Backends.open(Backend.SCALAR)) {
                VectorBundle.write(output, scalar);
            }
        }
        out.println(output + ": written");
        out.flush();
        return 0;
    }
}
