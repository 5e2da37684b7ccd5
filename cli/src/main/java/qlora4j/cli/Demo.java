package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.train.demo.DemoPretraining;
import qlora4j.train.demo.DemoRun;

/** {@code qlora demo}: the main job on the bundled model, before and after. */
@Command(name = "demo", sortOptions = false, description = {
        "Quantizes the bundled model to 4 bits, fine-tunes two adapters through it, saves them, loads everything again"
                + " and swaps the adapters. About a minute on two cores."})
final class Demo implements Callable<Integer> {
    private static final int EVERY = 25;

    @Spec
    private CommandSpec spec;

    @Option(names = "--output", paramLabel = "DIR", defaultValue = "demo-output",
            description = "Where the model and the adapters are written (default: ${DEFAULT-VALUE}).")
    private Path output;

    @Option(names = "--pretrain", paramLabel = "DIR",
            description = "Instead: pre-train the bundled model anew and write it to DIR.")
    private Path pretrain;

    @Option(names = "--pretrain-tokens", paramLabel = "N", defaultValue = "3000000",
            description = "Tokens to pre-train on (default: ${DEFAULT-VALUE}).")
    private long tokens;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "1",
            description = "Seed of the pre-training (default: ${DEFAULT-VALUE}).")
    private long seed;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        try (Backend opened = backend.open()) {
            if (pretrain != null) {
                new DemoPretraining(opened, pretrain, tokens, seed).run(line -> print(out, line));
                print(out, "model written to " + pretrain);
                return 0;
            }
            long start = System.nanoTime();
            DemoRun.Result r = new DemoRun(opened, output, line -> print(out, line),
                    (adapter, steps) -> Progress.of(out, 0, steps, EVERY)).run();
            print(out, String.format(Locale.ROOT,
                    "Exact match on %d held-out pairs: %d before, %d after, %d after loading again; %.0f s in all",
                    r.heldOut(), r.exactBefore(), r.exactAfter(), r.exactReloaded(),
                    (System.nanoTime() - start) / 1e9));
            print(out, "report: " + RunReport.ofDemo(spec, output, opened, r));
            print(out, "Try: ./qlora generate --chat --all --model " + output.resolve("model") + " --adapter "
                    + output.resolve("adapter-pirate") + " --prompt \"Is 52 less than 98?\"");
            return r.reachedGoal() ? 0 : 1;
        }
    }

    private static void print(PrintWriter out, String line) {
        out.println(line);
        out.flush();
    }
}
