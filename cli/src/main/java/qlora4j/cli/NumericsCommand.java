package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.tensor.Backend;
import qlora4j.verify.numerics.Numerics;
import qlora4j.verify.numerics.NumericsPage;
import qlora4j.verify.numerics.Result;

/** {@code qlora numerics}: each operation's error on a backend beside its budget. */
@Command(name = "numerics", description = {
        "Measures how far each operation is from its definition in float64, in units in the last place, and compares with"
                + " the budgets (docs/numerics.md). The exit code is 1 where one is exceeded."})
final class NumericsCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--page", paramLabel = "FILE", description = "Write the figures into their column of this page.")
    private Path page;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        int exceeded = 0;
        if (page != null) {
            NumericsPage.check(page);
        }
        try (Backend opened = backend.open()) {
            Map<Result, Double> measured = Numerics.measure(opened);
            for (Map.Entry<Result, Double> m : measured.entrySet()) {
                double budget = m.getKey().budget(opened.name());
                boolean kept = !(m.getValue() > budget);
                exceeded += kept ? 0 : 1;
                out.printf("%-9s %-20s %-16s %s, budget %s%n", kept ? "ok" : "EXCEEDED", m.getKey().operation(),
                        m.getKey().what(), NumericsPage.number(m.getValue()), NumericsPage.number(budget));
            }
            if (page != null) {
                NumericsPage.write(page, NumericsPage.column(opened), measured);
            }
            out.println(exceeded + " of " + measured.size() + " budgets exceeded");
        }
        out.flush();
        return exceeded == 0 ? 0 : 1;
    }
}
