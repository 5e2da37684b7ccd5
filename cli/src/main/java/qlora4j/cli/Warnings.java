package qlora4j.cli;

import java.io.PrintWriter;
import java.text.MessageFormat;
import java.util.HashSet;
import java.util.ResourceBundle;
import java.util.Set;

/**
 * Prints what the libraries log with {@link System.Logger} as lines {@code warning: ...}, each once; what is below a
 * warning is not printed. It is found as a service, in place of Java's own logging.
 */
public final class Warnings extends System.LoggerFinder {
    private static final Set<String> SEEN = new HashSet<>();
    private static PrintWriter out = new PrintWriter(System.err, true);

    /** Sends warnings to {@code writer} from now on, none of them counted as printed. */
    static synchronized void to(PrintWriter writer) {
        out = writer;
        SEEN.clear();
    }

    /** Prints a line unless it was printed before. */
    static synchronized void print(String message) {
        if (SEEN.add(message)) {
            out.println("warning: " + message);
            out.flush();
        }
    }

    @Override
    public System.Logger getLogger(String name, Module module) {
        return new Lines(name);
    }

    private record Lines(String name) implements System.Logger {
        @Override
        public String getName() {
            return name;
        }

        @Override
        public boolean isLoggable(Level level) {
            return level != Level.OFF && level.getSeverity() >= Level.WARNING.getSeverity();
        }

        @Override
        public void log(Level level, ResourceBundle bundle, String message, Throwable thrown) {
            if (isLoggable(level)) {
                print(thrown == null ? message : message + ": " + thrown);
            }
        }

        @Override
        public void log(Level level, ResourceBundle bundle, String format, Object... arguments) {
            if (isLoggable(level)) {
                print(arguments == null || arguments.length == 0 ? format : MessageFormat.format(format, arguments));
            }
        }
    }
}
