package qlora4j.train.data;

import java.util.List;

/** What a row's form asks for: Alpaca's prompt, the model's chat template, or the row as it stands. */
final class ByForm implements PromptTemplate {
    private static final String TEXT = "text";

    private final ChatPrompt chat;
    private final LossOn loss;

    ByForm(ChatRenderer chat, LossOn loss) {
        this.chat = chat == null ? null : new ChatPrompt(chat, loss);
        this.loss = loss;
    }

    @Override
    public Example apply(Row row) {
        return row instanceof Row.Conversation ? chat(row).apply(row) : plain(row);
    }

    @Override
    public Example explain(Row row) {
        return row instanceof Row.Conversation ? chat(row).explain(row) : plain(row);
    }

    private ChatPrompt chat(Row row) {
        if (chat == null) {
            throw new DataException(row.where() + ": is a conversation, and the model has no chat template; give "
                    + FLAG + " with a template file");
        }
        return chat;
    }

    private Example plain(Row row) {
        if (loss == LossOn.ASSISTANT) {
            throw new DataException("--assistant-only-loss needs conversations, and this is none: " + row.where()
                    + (row instanceof Row.Text ? "" : "; " + FLAG + " " + CHAT + " makes one of it"));
        }
        Example example = switch (row) {
            case Row.Alpaca alpaca -> Alpaca.forward(alpaca);
            case Row.PromptCompletion pair -> new Example(List.of(Segment.given(Columns.PROMPT, pair.prompt()),
                    Segment.learned(Columns.COMPLETION, pair.completion())));
            case Row.Text text -> new Example(List.of(new Segment(text.text(), TEXT, TEXT, true))).wholeLearned();
            case Row.Conversation _ -> throw new IllegalStateException("a conversation is the chat template's");
        };
        return loss == LossOn.ALL ? example.wholeLearned() : example;
    }

    @Override
    public String masks() {
        return chat == null ? null : chat.masks();
    }
}
