package qlora4j.cli;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.List;
import picocli.CommandLine;

/** What a command did: its exit code and all that it printed. */
record Ran(int code, String out, String err) {
    /** Runs the command line in this process. */
    static Ran run(String... arguments) {
        StringWriter out = new StringWriter();
        StringWriter err = new StringWriter();
        CommandLine line = Main.commandLine().setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        int code = Main.execute(line, arguments);
        return new Ran(code, out.toString(), err.toString());
    }

    /** The same with these lines on standard input. */
    static Ran piped(String input, String... arguments) {
        InputStream before = System.in;
        try {
            System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
            return run(arguments);
        } finally {
            System.setIn(before);
        }
    }

    static Ran run(List<String> arguments) {
        return run(arguments.toArray(String[]::new));
    }
}
