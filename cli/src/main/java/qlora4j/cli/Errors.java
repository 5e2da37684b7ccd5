package qlora4j.cli;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.util.function.BooleanSupplier;
import java.util.regex.Pattern;
import picocli.CommandLine;
import picocli.CommandLine.IExecutionExceptionHandler;
import picocli.CommandLine.IParameterExceptionHandler;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;
import qlora4j.template.TemplateException;
import qlora4j.tensor.DeviceMemoryException;
import qlora4j.train.TrainingException;
import qlora4j.train.data.DataException;

/**
 * What a user sees of an error. One that is about what the user gave is a line {@code qlora: ...} and exit code 2; any
 * other is a defect of this program, with its stack trace and exit code 1.
 */
final class Errors implements IExecutionExceptionHandler, IParameterExceptionHandler {
    private static final int MISUSED = 2;
    private static final int FAILED = 1;

    /** Where Jackson says an unfinished object began; of the place it only says that the source is not shown. */
    private static final Pattern START_MARKER = Pattern.compile(" \\(start marker at \\[[^]]*]\\)");

    private final BooleanSupplier debug;

    /** Errors that show their stack trace where {@code debug} says so. */
    Errors(BooleanSupplier debug) {
        this.debug = debug;
    }

    @Override
    public int handleParseException(ParameterException e, String[] args) {
        CommandLine line = e.getCommandLine();
        PrintWriter err = line.getErr();
        err.println("qlora: " + e.getMessage());
        if (line.getParent() == null && !(e instanceof UnmatchedArgumentException)) {
            line.usage(err);
        } else if (!UnmatchedArgumentException.printSuggestions(e, err)) {
            err.println("See: " + line.getCommandSpec().qualifiedName() + " --help");
        }
        return MISUSED;
    }

    @Override
    public int handleExecutionException(Exception thrown, CommandLine line, ParseResult parsed) {
        Throwable e = thrown instanceof UncheckedIOException ? thrown.getCause() : thrown;
        if (!isOfTheUser(e)) {
            line.getErr().println("qlora: this is a defect of qlora; please report it with the lines below");
            thrown.printStackTrace(line.getErr());
            return FAILED;
        }
        line.getErr().println("qlora: " + message(e));
        if (debug.getAsBoolean()) {
            thrown.printStackTrace(line.getErr());
        }
        return MISUSED;
    }

    private static boolean isOfTheUser(Throwable e) {
        return e instanceof IllegalArgumentException || e instanceof IOException || e instanceof DataException
                || e instanceof TrainingException || e instanceof TemplateException
                || e instanceof DeviceMemoryException;
    }

    /** The message, said in full where Java's own is only a file's name. */
    private static String message(Throwable e) {
        return switch (e) {
            case FileSystemException f when f.getReason() != null -> f.getMessage();
            case NoSuchFileException f -> f.getFile() + ": there is no such file or directory";
            case FileNotFoundException f -> "not found: " + f.getMessage();
            case AccessDeniedException f -> f.getFile() + ": permission denied";
            case FileAlreadyExistsException f -> f.getFile() + ": exists already and is no directory";
            case FileSystemException f -> f.getFile() + ": cannot be used ("
                    + f.getClass().getSimpleName() + ")";
            default -> e.getMessage() == null ? e.getClass().getSimpleName()
                    : START_MARKER.matcher(e.getMessage()).replaceAll("");
        };
    }
}
