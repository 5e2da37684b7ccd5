package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
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
import qlora4j.model.DecoderLoader;
import qlora4j.model.ModelDirectory;
import qlora4j.model.Tokenizer;
import qlora4j.tensor.Backend;
import qlora4j.train.SftTrainer;
import qlora4j.train.data.Example;
import qlora4j.train.data.PromptTemplate;
import qlora4j.train.data.Row;

/** {@code qlora generate}: writes text, with adapters that are swapped without loading the base again. */
@Command(name = "generate", sortOptions = false, description = {
        "Continues a prompt with a model in 4 bits, and with adapters on it.",
        "How tokens are chosen comes from the model's generation_config.json where no flag says otherwise."})
final class Generate implements Callable<Integer> {
    private static final String WHERE = "--prompt";

    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelOptions model;

    @Option(names = "--all", description = "Answer with the base and with each adapter, in one batch.")
    private boolean all;

    @Option(names = "--prompt", paramLabel = "TEXT", description = "What to continue (default: standard input).")
    private String prompt;

    @Option(names = "--template", paramLabel = "NAME|FILE",
            description = "Wrap the prompt as finetune did: alpaca (the prompt is the instruction), alpaca-reversed (the"
                    + " response), chat (the model's own template), or a Jinja file.")
    private String template;

    @Option(names = "--chat", description = "The same as --template chat.")
    private boolean chat;

    @Mixin
    private AdapterOptions adapters;

    @Mixin
    private SamplingOptions sampling;

    private PrintWriter out;

    @Override
    public Integer call() throws IOException {
        out = spec.commandLine().getOut();
        List<String> chosen = chosen();
        String text = prompt == null ? standardInput() : prompt;
        DecoderLoader loader = model.loader();
        ModelDirectory directory = model.directory();
        int[] ids;
        GenerateOptions options;
        Backend started;
        try {
            ids = ids(directory, text);
            options = options(directory, ids.length);
            started = model.backend();
        } catch (IOException | RuntimeException e) {
            directory.close();
            throw e;
        }
        try (Backend opened = started; CausalLm lm = CausalLm.load(directory, opened, loader)) {
            adapters.load(lm, spec.commandLine().getErr());
            List<int[]> prompts = new ArrayList<>();
            for (String name : chosen) {
                prompts.add(lm.tokenizer(name) == lm.tokenizer() ? ids : ids(directory, name, text));
            }
            if (all) {
                answer(lm, chosen, prompts, options);
            } else {
                answer(lm, chosen.getFirst(), prompts.getFirst(), options);
            }
        }
        return 0;
    }

    private void answer(CausalLm lm, String name, int[] ids, GenerateOptions options) throws IOException {
        long start = System.nanoTime();
        int made = lm.generate(name, ids, options, piece -> {
            out.print(piece);
            out.flush();
        });
        out.println();
        out.flush();
        PrintWriter err = spec.commandLine().getErr();
        err.printf(Locale.ROOT, "%d prompt tokens, %d new, %.1f new tokens/s%n", ids.length, made,
                made / ((System.nanoTime() - start) / 1e9));
        err.flush();
    }

    /** The answers of the base and of all adapters, which are written in one batch where they can be. */
    private void answer(CausalLm lm, List<String> names, List<int[]> prompts, GenerateOptions options)
            throws IOException {
        long start = System.nanoTime();
        int[] made = lm.generate(names, prompts, options, new TextsInOrder(out, names));
        int all = Arrays.stream(made).sum();
        PrintWriter err = spec.commandLine().getErr();
        err.printf(Locale.ROOT, "%d texts, %d prompt tokens, %d new, %.1f new tokens/s%n", made.length,
                prompts.stream().mapToInt(p -> p.length).sum(), all, all / ((System.nanoTime() - start) / 1e9));
        err.flush();
    }

    private List<String> chosen() {
        if (all && adapters.chosen()) {
            throw new IllegalArgumentException("--all and --use contradict each other");
        }
        String one = adapters.name();
        return all ? adapters.names() : List.of(one);
    }

    /** All of standard input, without the line break that a shell's echo puts at its end. */
    private String standardInput() throws IOException {
        if (System.console() != null && System.console().isTerminal()) {
            throw new IllegalArgumentException("give a --prompt, or a text on standard input");
        }
        return new String(System.in.readAllBytes(), StandardCharsets.UTF_8).replaceFirst("\\R$", "");
    }

    /** The prompt in the tokens of an adapter that has its own. */
    private int[] ids(ModelDirectory base, String adapter, String text) throws IOException {
        try (ModelDirectory files = adapters.tokensOf(adapter, base.path(), spec.commandLine().getErr())) {
            return ids(files, text);
        }
    }

    private int[] ids(ModelDirectory directory, String text) throws IOException {
        Tokenizer tokenizer = directory.tokenizer();
        if (chat && template != null) {
            throw new IllegalArgumentException("--chat is the same as --template chat; give one of them");
        }
        String name = chat ? PromptTemplate.CHAT : template;
        if (name == null) {
            return tokenizer.encode(text, true);
        }
        PromptTemplate prompts = SftTrainer.template(directory, name);
        Example example = prompts.apply(row(name, text));
        return tokenizer.encode(example.prompt(), !example.specials());
    }

    /** The prompt as a row whose completion is still to be written; templates want one, any will do. */
    private static Row row(String template, String text) {
        String unwritten = "?";
        boolean reversed = template.equals(PromptTemplate.ALPACA_REVERSED);
        String instruction = reversed ? unwritten : text;
        String output = reversed ? text : unwritten;
        return new Row.Alpaca(WHERE, instruction, "", output,
                Map.of("instruction", instruction, "input", "", "output", output));
    }

    private GenerateOptions options(ModelDirectory directory, int promptTokens) {
        int positions = directory.config().maxPositions();
        int room = positions - promptTokens;
        if (promptTokens == 0) {
            throw new IllegalArgumentException(WHERE + ": the prompt is empty; give a text, as the flag's value or on"
                    + " standard input");
        }
        if (room < 1) {
            throw new IllegalArgumentException(WHERE + ": the prompt has " + promptTokens + " tokens; the model was"
                    + " made for " + positions + " and at least one new one must fit: give a shorter one");
        }
        Integer most = sampling.maxNewTokens();
        if (most != null && most > room) {
            throw new IllegalArgumentException("--max-new-tokens " + most + ": the prompt has " + promptTokens
                    + " tokens and the model was made for " + positions + " in all; give at most " + room);
        }
        return sampling.of(directory.generation()).within(room);
    }
}
