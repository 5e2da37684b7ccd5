package qlora4j.cli;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import picocli.AutoComplete.GenerateCompletion;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ScopeType;
import picocli.CommandLine.Spec;

/** The {@code qlora} command. Each subcommand is a class of its own, named in {@code subcommands} below. */
@Command(name = "qlora", mixinStandardHelpOptions = true, versionProvider = Version.class, usageHelpAutoWidth = true,
        scope = ScopeType.INHERIT, synopsisSubcommandLabel = "COMMAND",
        description = {"QLoRA for the JVM: a base model in 4-bit NormalFloat, LoRA adapters trained through it."},
        // @formatter:off
        subcommands = {
                Demo.class,
                Finetune.class, ExplainBatch.class,
                Report.class,
                Plan.class,
                Generate.class, Chat.class,
                Evaluate.class,
                Quantize.class,
                Merge.class,
                Inspect.class,
                Verify.class,
                NumericsCommand.class,
                Vectors.class,
                Bench.class,
                Import.class,
                Export.class,
                Pull.class,
                DumpLogits.class,
                GenerateCompletion.class})
// @formatter:on
public final class Main implements Runnable {

    /** What Java makes of bytes that it cannot decode. */
    private static final char UNREADABLE = '\uFFFD';

    @Spec
    private CommandSpec spec;

    @Option(names = "--debug", scope = ScopeType.INHERIT, description = "Print a stack trace with an error.")
    private boolean debug;

    @Option(names = ConfigFile.FLAG, scope = ScopeType.INHERIT, paramLabel = "FILE.yaml",
            description = "Take flags from a YAML file: keys are flags, with hyphens or underscores; a flag given here wins.")
    private Path config;

    /** Runs the command line and ends the JVM with its exit code: 0 done, 1 failed, 2 misused. */
    public static void main(String[] args) {
        StandardError.restore();
        PrintWriter out = utf8(FileDescriptor.out);
        PrintWriter err = utf8(FileDescriptor.err);
        int code = execute(commandLine().setOut(out).setErr(err), args);
        out.flush();
        err.flush();
        System.exit(code);
    }

    /** Models write UTF-8 whatever the terminal's locale is. */
    private static PrintWriter utf8(FileDescriptor descriptor) {
        return new PrintWriter(new OutputStreamWriter(new FileOutputStream(descriptor), StandardCharsets.UTF_8), true);
    }

    /** Runs {@code args}; warnings of the libraries go to the command line's standard error. */
    static int execute(CommandLine line, String... args) {
        Warnings.to(line.getErr());
        if (String.join("", args).indexOf(UNREADABLE) >= 0) {
            Warnings.print("an argument has characters that are not of this locale's encoding; set LC_ALL=C.UTF-8");
        }
        String[] spelled = Spelling.withHyphens(line, args);
        try {
            return line.execute(ConfigFile.expand(line, spelled));
        } catch (IOException | IllegalArgumentException e) {
            return new Errors(() -> Arrays.asList(args).contains("--debug")).handleExecutionException(e, line, null);
        }
    }

    /** The command line with all its subcommands, for {@link #main} and for tests. */
    static CommandLine commandLine() {
        Main main = new Main();
        Errors errors = new Errors(() -> main.debug);
        CommandLine line = new CommandLine(main);
        Plan.acceptFlagsOf(line, "finetune");
        return line.setParameterExceptionHandler(errors).setExecutionExceptionHandler(errors)
                .setCaseInsensitiveEnumValuesAllowed(true);
    }

    @Override
    public void run() {
        throw new ParameterException(spec.commandLine(), "a command is needed");
    }
}
