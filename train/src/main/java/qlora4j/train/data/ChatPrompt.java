package qlora4j.train.data;

import java.util.List;

/** The model's own chat template over one message and its answer. */
record ChatPrompt(ChatRenderer chat) implements PromptTemplate {
    private static final int SHOWN = 60;

    @Override
    public Example apply(Row row) {
        Message question = Message.user(switch (row) {
            case Row.Alpaca alpaca -> Alpaca.request(alpaca);
            case Row.PromptCompletion pair -> pair.prompt();
        });
        Message answer = Message.assistant(switch (row) {
            case Row.Alpaca alpaca -> alpaca.output();
            case Row.PromptCompletion pair -> pair.completion();
        });
        String prompt = chat.render(List.of(question), true);
        String whole = chat.render(List.of(question, answer), false);
        if (!whole.startsWith(prompt)) {
            int same = 0;
            while (same < Math.min(prompt.length(), whole.length()) && prompt.charAt(same) == whole.charAt(same)) {
                same++;
            }
            throw new DataException(
                    FLAG + " " + CHAT + ": the model's chat template writes a conversation that does not begin"
                            + " with its own prompt, so the answer cannot be told from it (" + row.where() + ": \""
                            + excerpt(prompt, same) + "\" in the prompt, \"" + excerpt(whole, same)
                            + "\" in the conversation); give a template file instead");
        }
        if (whole.length() == prompt.length()) {
            throw new DataException(
                    FLAG + " " + CHAT + ": the model's chat template leaves the answer out (" + row.where()
                            + "); give a template file instead");
        }
        return new Example(prompt, whole.substring(prompt.length()));
    }

    private static String excerpt(String text, int from) {
        String shown = text.substring(from, Math.min(text.length(), from + SHOWN));
        return shown.replace("\n", "\\n");
    }

    @Override
    public boolean writesSpecialTokens() {
        return true;
    }
}
