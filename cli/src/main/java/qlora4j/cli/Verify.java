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
import qlora4j.verify.Conformance;

/** {@code qlora verify}: runs a conformance bundle. */
@Command(name = "verify", description = {
        "Runs a conformance bundle, a folder of other implementations' inputs and results, against this one.",
        "Exit code 0: something was checked and nothing failed; 1: a check failed, or nothing could be checked."})
final class Verify implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "BUNDLE", description = "The folder of the bundle.")
    private Path bundle;

    @Option(names = "--model", paramLabel = "DIR", description = "The directory of the real model it records, if any.")
    private Path model;

    @Option(names = "--self-test",
            description = "Check the checks: perturb each kind of record beyond its limit and expect a failure.")
    private boolean selfTest;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        try (Backend opened = backend.open()) {
            return Conformance.run(new Conformance.Options(bundle, opened, model, selfTest), line -> {
                out.println(line);
                out.flush();
            }).ok() ? 0 : 1;
        }
    }
}
