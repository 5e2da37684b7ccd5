package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import picocli.CommandLine.Option;
import qlora4j.train.data.Packing;
import qlora4j.train.data.Row;
import qlora4j.train.data.Rows;
import qlora4j.train.data.Split;
import qlora4j.train.data.TokenizedData;

/** The rows that a command trains on or evaluates on, and how they become prompts. */
final class DataOptions {
    @Option(names = "--data", paramLabel = "FILE", description = "The rows to train on.")
    private Path data;

    @Option(names = "--template", paramLabel = "NAME|FILE",
            description = "How rows become prompts: alpaca, alpaca-reversed, chat (the model's own), or a Jinja file"
                    + " (default: by the rows' form).")
    private String template;

    @Option(names = "--eval-data", paramLabel = "FILE", description = "Rows to evaluate on, which are not trained on.")
    private Path evalData;

    @Option(names = "--eval-split", paramLabel = "SHARE",
            description = "Instead: the share of --data, drawn by --seed, to set aside for evaluation.")
    private Double evalSplit;

    @Option(names = "--packing", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Put rows together to sequences of up to --max-seq-length tokens, each with positions and"
                    + " attention of its own; batch sizes then count sequences.")
    private boolean packing;

    @Option(names = "--packing-strategy", paramLabel = "NAME", defaultValue = Packing.BEST_FIT_DECREASING,
            description = "bfd, best-fit decreasing (default: ${DEFAULT-VALUE}).")
    private String strategy;

    /** Whether rows were named. */
    boolean given() {
        return data != null;
    }

    /** The name or file of the prompt template; null: by the rows' own form. */
    String template() {
        return template;
    }

    /** The rows to train on, packed where that was asked for. */
    TokenizedData pack(TokenizedData rows) {
        if (!strategy.equals(Packing.BEST_FIT_DECREASING)) {
            throw new IllegalArgumentException("--packing-strategy " + strategy + ": only "
                    + Packing.BEST_FIT_DECREASING + " is there; it cuts no row, as wrapped would");
        }
        return packing ? rows.packed() : rows;
    }

    /** The rows to train on and those to evaluate on, if any; an error where no rows were named. */
    Split split(long seed) throws IOException {
        if (data == null) {
            throw new IllegalArgumentException("--data FILE is missing: the rows to train on");
        }
        if (evalData != null && evalSplit != null) {
            throw new IllegalArgumentException("--eval-data and --eval-split: give one of them");
        }
        List<Row> all = Rows.read(data);
        if (evalSplit != null) {
            if (!(evalSplit > 0 && evalSplit < 1)) {
                throw new IllegalArgumentException("--eval-split " + evalSplit + ": must be between 0 and 1");
            }
            return Split.of(all, evalSplit, seed);
        }
        return new Split(all, evalData == null ? List.of() : Rows.read(evalData));
    }
}
