package qlora4j.cli;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jline.reader.Candidate;
import org.jline.reader.CompletingParsedLine;
import org.jline.reader.EndOfFileException;
import org.jline.reader.LineReader;
import org.jline.reader.LineReaderBuilder;
import org.jline.reader.UserInterruptException;
import org.jline.terminal.Terminal;
import org.jline.terminal.TerminalBuilder;

/** Where the lines of a chat come from and where its text goes. */
interface ChatConsole extends AutoCloseable {
    /** What a terminal's interrupt key does while a line is being typed: nothing is said. */
    String NOTHING = "";

    /**
     * The next line.
     *
     * @param prompt shown on a terminal
     * @return null at the end of the input
     */
    String readLine(String prompt) throws IOException;

    /** Where answers go. */
    PrintWriter out();

    /** What the interrupt key does from now on while no line is being read. */
    void onInterrupt(Runnable action);

    @Override
    void close() throws IOException;

    /** Lines of a pipe or a file: no prompts, and an interrupt ends the program. */
    record Piped(BufferedReader in, PrintWriter out) implements ChatConsole {
        Piped(InputStream in, PrintWriter out) {
            this(new BufferedReader(new InputStreamReader(in, StandardCharsets.UTF_8)), out);
        }

        @Override
        public String readLine(String prompt) throws IOException {
            return in.readLine();
        }

        @Override
        public void onInterrupt(Runnable action) {
            // a pipe has no interrupt key
        }

        @Override
        public void close() {
            // standard input and output are the process's
        }
    }

    /** A terminal, with line editing, the lines of this chat as history, and completion of commands. */
    final class OnTerminal implements ChatConsole {
        private final Terminal terminal;
        private final LineReader reader;

        /** @param words what completes a line's first word, each with what completes the second */
        OnTerminal(Terminal terminal, Map<String, List<String>> words) {
            this.terminal = terminal;
            Map<String, List<String>> sorted = new TreeMap<>(words);
            reader = LineReaderBuilder.builder().terminal(terminal)
                    .option(LineReader.Option.DISABLE_EVENT_EXPANSION, true)
                    .parser((line, cursor, context) -> new Words(line, cursor)).completer((_, line, candidates) -> {
                        List<String> fitting = line.wordIndex() == 0 ? List.copyOf(sorted.keySet())
                                : line.wordIndex() == 1 ? sorted.getOrDefault(line.words().getFirst(), List.of())
                                        : List.of();
                        fitting.forEach(word -> candidates.add(new Candidate(word)));
                    }).build();
        }

        /** The process's own terminal. */
        static OnTerminal open(Map<String, List<String>> words) throws IOException {
            return new OnTerminal(TerminalBuilder.builder().system(true).build(), words);
        }

        @Override
        public String readLine(String prompt) {
            try {
                return reader.readLine(prompt);
            } catch (UserInterruptException e) {
                return NOTHING;
            } catch (EndOfFileException e) {
                return null;
            }
        }

        @Override
        public PrintWriter out() {
            return terminal.writer();
        }

        @Override
        public void onInterrupt(Runnable action) {
            terminal.handle(Terminal.Signal.INT, _ -> action.run());
        }

        @Override
        public void close() throws IOException {
            terminal.close();
        }
    }

    /** A line as words between spaces: quotes and backslashes are text. */
    record Words(String line, int cursor) implements CompletingParsedLine {
        private String[] before() {
            return line.substring(0, cursor).split(" ", -1);
        }

        @Override
        public String word() {
            return words().get(wordIndex());
        }

        @Override
        public int wordCursor() {
            return before()[wordIndex()].length();
        }

        @Override
        public int wordIndex() {
            return before().length - 1;
        }

        @Override
        public CharSequence escape(CharSequence candidate, boolean complete) {
            return candidate;
        }

        @Override
        public int rawWordCursor() {
            return wordCursor();
        }

        @Override
        public int rawWordLength() {
            return word().length();
        }

        @Override
        public List<String> words() {
            return List.of(line.split(" ", -1));
        }
    }
}
