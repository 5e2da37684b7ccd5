package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.train.report.Metrics;
import qlora4j.train.report.ReportPage;

/** {@code qlora report}: the page of a run, made again. */
@Command(name = "report", description = {
        "Makes report.html of a training run's output directory from its metrics.jsonl and run.json, also while the run"
                + " goes on or where it was broken off."})
final class Report implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "DIR", description = "What finetune was given as --output.")
    private Path directory;

    @Override
    public Integer call() throws IOException {
        if (!Files.exists(directory.resolve(Metrics.FILE))) {
            throw new IllegalArgumentException(directory + ": there is no " + Metrics.FILE
                    + "; give the --output directory of a finetune run that has logged a step");
        }
        spec.commandLine().getOut().println("report: " + ReportPage.write(directory));
        return 0;
    }
}
