package qlora4j.train.data;

import java.util.ArrayList;
import java.util.List;

/** The two templates of Alpaca rows. */
final class Alpaca {
    private static final String TASK = "Below is an instruction that describes a task";
    private static final String CONTEXT = ", paired with an input that provides further context";
    private static final String REQUEST = ". Write a response that appropriately completes the request.\n\n";
    private static final String INSTRUCTION = "### Instruction:\n";
    private static final String INPUT = "### Input:\n";
    private static final String RESPONSE = "### Response:";
    private static final String BLANK_LINE = "\n\n";

    private Alpaca() {
    }

    /** As published: github.com/tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT. */
    static Example forward(Row.Alpaca row) {
        List<Segment> text = new ArrayList<>();
        text.add(Segment.template(TASK + (row.hasInput() ? CONTEXT : "") + REQUEST + INSTRUCTION));
        text.add(Segment.given(Columns.INSTRUCTION, row.instruction()));
        if (row.hasInput()) {
            text.add(Segment.template(BLANK_LINE + INPUT));
            text.add(Segment.given(Columns.INPUT, row.input()));
        }
        text.add(Segment.template(BLANK_LINE + RESPONSE));
        text.add(Segment.learned(Columns.OUTPUT, row.output()));
        return new Example(text);
    }

    static Example reversed(Row.Alpaca row) {
        List<Segment> text = new ArrayList<>();
        text.add(Segment.template(RESPONSE + "\n"));
        text.add(Segment.given(Columns.OUTPUT, row.output()));
        text.add(Segment.template(BLANK_LINE + INSTRUCTION));
        text.add(Segment.learned(Columns.INSTRUCTION, row.instruction()));
        if (row.hasInput()) {
            text.add(Segment.learned(null, BLANK_LINE));
            text.add(Segment.learned(Columns.INPUT, row.input()));
        }
        return new Example(text);
    }

    /** The instruction, then after a blank line the input where there is one. */
    static String request(Row.Alpaca row) {
        return row.hasInput() ? row.instruction() + BLANK_LINE + row.input() : row.instruction();
    }
}
