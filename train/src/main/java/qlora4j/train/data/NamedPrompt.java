package qlora4j.train.data;

import java.util.function.Function;

/** A template of Alpaca rows that the flag names. */
record NamedPrompt(String name, Function<Row.Alpaca, Example> template, LossOn loss) implements PromptTemplate {
    NamedPrompt {
        if (loss == LossOn.ASSISTANT) {
            throw new DataException("--assistant-only-loss needs conversations, which " + FLAG + " " + name
                    + " does not write; take " + FLAG + " " + CHAT);
        }
    }

    @Override
    public Example apply(Row row) {
        if (!(row instanceof Row.Alpaca alpaca)) {
            throw new DataException(FLAG + " " + name + " needs rows of instruction, input and output, but this is "
                    + switch (row) {
                        case Row.PromptCompletion _ -> "a prompt and a completion";
                        case Row.Conversation _ -> "a conversation";
                        default -> "one text";
                    } + ": " + row.where() + "; leave the flag away to train on them as they stand"
                    + (row instanceof Row.Text ? "" : ", or take " + FLAG + " " + CHAT));
        }
        Example example = template.apply(alpaca);
        return loss == LossOn.ALL ? example.wholeLearned() : example;
    }
}
