package qlora4j.train.data;

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
        String input = row.hasInput() ? INPUT + row.input() + BLANK_LINE : "";
        return new Example(
                TASK + (row.hasInput() ? CONTEXT : "") + REQUEST + INSTRUCTION + row.instruction() + BLANK_LINE
                        + input + RESPONSE,
                row.output());
    }

    static Example reversed(Row.Alpaca row) {
        return new Example(RESPONSE + "\n" + row.output() + BLANK_LINE + INSTRUCTION, request(row));
    }

    /** The instruction, then after a blank line the input where there is one. */
    static String request(Row.Alpaca row) {
        return row.hasInput() ? row.instruction() + BLANK_LINE + row.input() : row.instruction();
    }
}
