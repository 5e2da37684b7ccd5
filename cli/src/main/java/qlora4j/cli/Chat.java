package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.model.CausalLm;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.model.ChatSession;
import qlora4j.model.ChatSession.Reply;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.template.TemplateException;
import qlora4j.tensor.Backend;

/** {@code qlora chat}: a conversation in the terminal, or of the lines of a pipe. */
@Command(name = "chat", sortOptions = false, description = {
        "A conversation with a model in 4 bits, in its own chat template; adapters are swapped by /adapter NAME.",
        "/help lists the commands of a chat. Ctrl-C ends an answer, Ctrl-D the chat. Lines of a pipe are taken one by"
                + " one."})
final class Chat implements Callable<Integer> {
    private static final String PROMPT = "> ";
    private static final String MORE = ". ";
    private static final char CONTINUES = '\\';
    private static final String COMMANDS = """
            /adapter [NAME]  let this adapter answer from now on, or base; without NAME: what there is
            /system [TEXT]   set the system message; without TEXT: take it away
            /reset           forget the conversation
            /help            this list
            /quit            end (Ctrl-D does too)
            A \\ at the end of a line goes on with the next one; // begins a message with a single /.""";

    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelOptions model;

    @Option(names = "--system", paramLabel = "TEXT", description = "The system message.")
    private String system;

    @Option(names = "--verbose", description = "Say after each answer how many tokens it took and how fast.")
    private boolean verbose;

    @Mixin
    private AdapterOptions adapters;

    @Mixin
    private SamplingOptions sampling;

    private ChatConsole console;
    private ChatSession session;
    private GenerateOptions options;

    @Override
    public Integer call() throws IOException {
        PrintWriter err = spec.commandLine().getErr();
        String first = adapters.name();
        DecoderLoader loader = model.loader();
        ModelDirectory directory = model.directory();
        Backend started;
        try {
            options = sampling.of(directory.generation());
            started = model.backend();
        } catch (RuntimeException e) {
            directory.close();
            throw e;
        }
        try (Backend opened = started; CausalLm lm = CausalLm.load(directory, opened, loader)) {
            adapters.load(lm, err);
            try (ChatSession opening = new ChatSession(lm); ChatConsole with = console()) {
                session = opening;
                console = with;
                session.use(first);
                session.system(system);
                converse();
            }
        }
        return 0;
    }

    private ChatConsole console() throws IOException {
        boolean terminal = System.console() != null && System.console().isTerminal();
        return terminal ? ChatConsole.OnTerminal.open(words())
                : new ChatConsole.Piped(System.in, spec.commandLine().getOut());
    }

    private Map<String, List<String>> words() {
        return Map.of("/adapter", adapters.names(), "/system", List.of(), "/reset", List.of(), "/help", List.of(),
                "/quit", List.of());
    }

    /** One message or command after another. */
    private void converse() throws IOException {
        console.onInterrupt(session::stop);
        for (String line = message(); line != null; line = message()) {
            if (line.isBlank()) {
                continue;
            }
            try {
                if (line.startsWith("//") || !line.startsWith("/")) {
                    answer(line.startsWith("//") ? line.substring(1) : line);
                } else if (!command(line.strip())) {
                    return;
                }
            } catch (IllegalArgumentException | TemplateException e) {
                note(e.getMessage());
            }
        }
    }

    /** A message of one or more lines, or null. */
    private String message() throws IOException {
        StringBuilder whole = new StringBuilder();
        for (String line = console.readLine(PROMPT); line != null; line = console.readLine(MORE)) {
            boolean more = !line.isEmpty() && line.charAt(line.length() - 1) == CONTINUES;
            whole.append(line, 0, line.length() - (more ? 1 : 0));
            if (!more) {
                return whole.toString();
            }
            whole.append('\n');
        }
        return whole.isEmpty() ? null : whole.toString();
    }

    private void answer(String text) throws IOException {
        PrintWriter out = console.out();
        long start = System.nanoTime();
        Reply reply = session.say(text, options, piece -> {
            out.print(piece);
            out.flush();
        });
        out.println();
        out.flush();
        switch (reply.end()) {
            case STOPPED -> note("stopped");
            case LENGTH -> note("cut off after " + reply.newTokens() + " tokens; --max-new-tokens allows more");
            case FINISHED -> {
            }
        }
        if (verbose) {
            note(String.format(Locale.ROOT, "%d prompt tokens, %d of them from the cache, %d new, %.1f new tokens/s",
                    reply.promptTokens(), reply.reusedTokens(), reply.newTokens(),
                    reply.newTokens() / ((System.nanoTime() - start) / 1e9)));
        }
    }

    /** Carries out a command; false ends the chat. */
    private boolean command(String line) {
        String[] parts = line.split("\\s+", 2);
        String rest = parts.length > 1 ? parts[1] : "";
        switch (parts[0]) {
            case "/adapter" -> adapter(rest);
            case "/system" -> {
                session.system(rest.isEmpty() ? null : rest);
                note(rest.isEmpty() ? "no system message" : "system: " + rest);
            }
            case "/reset" -> {
                session.reset();
                note("a new conversation");
            }
            case "/help" -> note(COMMANDS);
            case "/quit", "/exit" -> {
                return false;
            }
            default -> note("there is no command " + parts[0] + "; /help lists them, // begins a message with /");
        }
        return true;
    }

    private void adapter(String name) {
        if (!name.isEmpty()) {
            session.use(name);
        }
        note("adapter: " + session.adapter() + (name.isEmpty() ? "; there are " + adapters.names() : ""));
    }

    /** What is not the model's goes to standard error. */
    private void note(String text) {
        PrintWriter err = spec.commandLine().getErr();
        err.println(text);
        err.flush();
    }
}
