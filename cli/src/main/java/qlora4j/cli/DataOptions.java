package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import picocli.CommandLine.Option;
import qlora4j.model.ModelDirectory;
import qlora4j.train.SftTrainer;
import qlora4j.train.data.Columns;
import qlora4j.train.data.DataSource;
import qlora4j.train.data.LossOn;
import qlora4j.train.data.Packing;
import qlora4j.train.data.PromptTemplate;
import qlora4j.train.data.Row;
import qlora4j.train.data.Split;
import qlora4j.train.data.TokenizedData;

/** The rows that a command trains on or evaluates on, and how they become labels; names are TRL's where it has one. */
final class DataOptions {
    private static final String TRAIN_SPLIT = "--dataset-train-split";
    private static final String TEST_SPLIT = "--dataset-test-split";
    private static final String WHOLE = "train";

    @Option(names = "--data", paramLabel = "FILE|DIR", arity = "1..*",
            description = "The rows to train on: files of JSON, JSON lines, CSV or Parquet, or directories of a data set"
                    + " with a file or more for each split.")
    private List<Path> data;

    @Option(names = "--dataset-config", paramLabel = "NAME",
            description = "The configuration of a directory: the folder of that name in it.")
    private String config;

    @Option(names = TRAIN_SPLIT, paramLabel = "SPLIT", defaultValue = WHOLE,
            description = "The split to train on, or a part of it: train[:1000], train[90%%:] (default:"
                    + " ${DEFAULT-VALUE}).")
    private String trainSplit;

    @Option(names = TEST_SPLIT, paramLabel = "SPLIT",
            description = "The split of --data to evaluate on (default: none; of a directory in --eval-data: test).")
    private String testSplit;

    @Option(names = "--eval-data", paramLabel = "FILE|DIR", arity = "1..*",
            description = "Rows to evaluate on, which are not trained on.")
    private List<Path> evalData;

    @Option(names = "--eval-split", paramLabel = "SHARE",
            description = "Instead: the share of --data, drawn by --seed, to set aside for evaluation.")
    private Double evalSplit;

    @Option(names = "--column-mapping", paramLabel = "NAME=COLUMN", split = ",", arity = "1..*",
            description = "Columns that are called otherwise, such as instruction=question,output=answer.")
    private Map<String, String> mapping = new LinkedHashMap<>();

    @Option(names = "--dataset-text-field", paramLabel = "COLUMN",
            description = "Learn the whole text of this column, whatever else rows have (default: text, in rows that"
                    + " have no other form).")
    private String textField;

    @Option(names = "--template", paramLabel = "NAME|FILE",
            description = "How rows become prompts: alpaca, alpaca-reversed, chat (the model's own), or a Jinja file"
                    + " (default: by the rows' form).")
    private String template;

    @Option(names = "--assistant-only-loss", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Learn all answers of a conversation, not the last alone.")
    private boolean assistantOnly;

    @Option(names = "--completion-only-loss", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Learn completions only; false: prompts too (default: true, but a text is learned whole).")
    private Boolean completionOnly;

    @Option(names = "--packing", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Put rows together to sequences of up to --max-seq-length tokens, each with positions and"
                    + " attention of its own; batch sizes then count sequences.")
    private boolean packing;

    @Option(names = "--packing-strategy", paramLabel = "NAME", defaultValue = Packing.BEST_FIT_DECREASING,
            description = "bfd, best-fit decreasing (default: ${DEFAULT-VALUE}).")
    private String strategy;

    /**
     * Rows as token ids.
     *
     * @param train     packed where that was asked for
     * @param held      to evaluate on, or null
     * @param templates what made examples of them
     */
    record Prepared(TokenizedData train, TokenizedData held, PromptTemplate templates) {
    }

    /** Whether rows were named. */
    boolean given() {
        return data != null;
    }

    /** What makes examples of rows. */
    PromptTemplate template(ModelDirectory directory) throws IOException {
        if (assistantOnly && completionOnly != null && !completionOnly) {
            throw new IllegalArgumentException("--assistant-only-loss and --completion-only-loss false contradict each"
                    + " other");
        }
        LossOn loss = assistantOnly ? LossOn.ASSISTANT
                : completionOnly == null || completionOnly ? LossOn.COMPLETION : LossOn.ALL;
        return SftTrainer.template(directory, template, loss);
    }

    /** Reads the rows and makes token ids of them; says on {@code out} what was read and what became of it. */
    Prepared prepare(ModelDirectory directory, int maxLength, long seed, PrintWriter out) throws IOException {
        if (!strategy.equals(Packing.BEST_FIT_DECREASING)) {
            throw new IllegalArgumentException("--packing-strategy " + strategy + ": only "
                    + Packing.BEST_FIT_DECREASING + " is there; it cuts no row, as wrapped would");
        }
        PromptTemplate prompts = template(directory);
        Split split = split(seed, out);
        if (prompts.masks() != null) {
            out.println("learned: " + prompts.masks());
        }
        TokenizedData rows = SftTrainer.tokenize(directory, split.train(), prompts, maxLength);
        out.println("data: " + rows.report().summary());
        if (packing) {
            rows = rows.packed();
            out.println("packing: " + rows.packing().summary());
        }
        TokenizedData held = null;
        if (!split.eval().isEmpty()) {
            held = SftTrainer.tokenize(directory, split.eval(), prompts, maxLength);
            out.println("held out: " + held.report().summary());
        }
        return new Prepared(rows, held, prompts);
    }

    /** The rows to train on and those to evaluate on, if any; an error where no rows were named. */
    Split split(long seed, PrintWriter out) throws IOException {
        if (data == null) {
            throw new IllegalArgumentException("--data FILE is missing: the rows to train on");
        }
        if (evalData != null && evalSplit != null) {
            throw new IllegalArgumentException("--eval-data and --eval-split: give one of them");
        }
        if (evalSplit != null && testSplit != null) {
            throw new IllegalArgumentException("--eval-split and " + TEST_SPLIT + ": give one of them");
        }
        List<Row> all = read(data, trainSplit, TRAIN_SPLIT, out);
        if (evalSplit != null) {
            if (!(evalSplit > 0 && evalSplit < 1)) {
                throw new IllegalArgumentException("--eval-split " + evalSplit + ": must be between 0 and 1");
            }
            return Split.of(all, evalSplit, seed);
        }
        if (evalData != null) {
            boolean directories = evalData.stream().anyMatch(Files::isDirectory);
            String held = testSplit != null ? testSplit : directories ? "test" : WHOLE;
            return new Split(all, read(evalData, held, TEST_SPLIT, out));
        }
        return new Split(all, testSplit == null ? List.of() : read(data, testSplit, TEST_SPLIT, out));
    }

    private List<Row> read(List<Path> paths, String split, String flag, PrintWriter out) throws IOException {
        DataSource.Loaded loaded = new DataSource(paths, config, split, flag, new Columns(mapping, textField)).read();
        loaded.taken().forEach(line -> out.println("read " + line));
        return loaded.rows();
    }
}
