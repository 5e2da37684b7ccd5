package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.verify.Conformance;
import qlora4j.verify.vectors.VectorBundle;
import qlora4j.verify.vectors.Verdict;
import qlora4j.verify.vectors.VerdictText;

/** {@code qlora verify}: runs a conformance bundle. */
@Command(name = "verify", description = {
        "Runs a conformance bundle, a folder of other implementations' inputs and results, against this one.",
        "With --against: judges another implementation's dump by test vectors, names the first operation that differs and"
                + " the mistake that explains it.",
        "Exit code 0: something was checked and nothing failed; 1: a check failed, or nothing could be checked."})
final class Verify implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "BUNDLE",
            description = "The folder of the bundle, or of test vectors; with --against the dump, a safetensors file or a"
                    + " folder of them.")
    private Path bundle;

    @Option(names = "--against", paramLabel = "VECTORS",
            description = "Judge BUNDLE, another implementation's dump, by this folder of test vectors"
                    + " (verify/vectors, or what `qlora vectors` wrote).")
    private Path against;

    @Option(names = "--json", description = "With --against or test vectors: write the verdict as JSON.")
    private boolean json;

    @Option(names = "--model", paramLabel = "DIR|OWNER/NAME",
            description = "The directory of the real model it records, if any.")
    private Path model;

    @Option(names = "--self-test",
            description = "Check the checks: perturb each kind of record beyond its limit and expect a failure.")
    private boolean selfTest;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        if (against != null) {
            return judge(out);
        }
        if (VectorBundle.is(bundle)) {
            refuseModelAndSelfTest("BUNDLE is a folder of test vectors");
            try (Backend opened = backend.open()) {
                return print(Verdict.of(opened, bundle), out);
            }
        }
        if (json) {
            throw new ParameterException(spec.commandLine(), "--json goes with --against VECTORS or with test vectors");
        }
        Path real = model == null ? null : HubModels.directory(model, spec.commandLine().getErr());
        try (Backend opened = backend.open()) {
            return Conformance.run(new Conformance.Options(bundle, opened, real, selfTest), line -> {
                out.println(line);
                out.flush();
            }).ok() ? 0 : 1;
        }
    }

    private int judge(PrintWriter out) throws IOException {
        refuseModelAndSelfTest("--against compares a dump with test vectors");
        return print(Verdict.of(bundle, against), out);
    }

    private void refuseModelAndSelfTest(String why) {
        if (model != null || selfTest) {
            throw new ParameterException(spec.commandLine(), why + ": --model and --self-test do not go with it");
        }
    }

    private int print(Verdict verdict, PrintWriter out) {
        if (json) {
            out.println(VerdictText.json(verdict));
        } else {
            VerdictText.lines(verdict).forEach(out::println);
        }
        out.flush();
        return VerdictText.agrees(verdict) ? 0 : 1;
    }
}
