package qlora4j.train.data;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Function;

/**
 * Splits a row into what the model is given and what it learns to write. The flag {@code --template} names one of
 *
 * <ul>
 * <li>{@code alpaca}: the prompt of the Stanford Alpaca project (its train.py, PROMPT_DICT), with and without input;
 * nothing follows {@code ### Response:}, and the completion is the row's output.</li>
 * <li>{@code alpaca-reversed}: given the response, predict the instruction, then after a blank line the input where
 * there is one.</li>
 * <li>{@code chat}: the model's own chat template over one user's message (the instruction, then after a blank line the
 * input where there is one; or the row's prompt) and the assistant's answer. The prompt is the user's message rendered
 * with the generation prompt, the completion what the whole conversation adds to it.</li>
 * <li>a file: a Jinja template over all of the row's fields ({@link JinjaPrompt}), with one
 * {@code {% generation %}} … {@code {% endgeneration %}} around what the model learns to write.</li>
 * </ul>
 *
 * Without the flag, Alpaca rows take {@code alpaca}, and prompt/completion rows are taken as they stand.
 */
public interface PromptTemplate {
    /** The flag that names a template, for messages. */
    String FLAG = "--template";
    String ALPACA = "alpaca";
    String ALPACA_REVERSED = "alpaca-reversed";
    String CHAT = "chat";

    /**
     * The prompt and the completion of a row.
     *
     * @throws DataException where the template does not fit the row; the message names both
     */
    Example apply(Row row);

    /** Whether the template writes BOS and the like itself, so that the tokenizer must not add them. */
    boolean writesSpecialTokens();

    /** The template that is used where none was asked for. */
    static PromptTemplate byForm() {
        return text(PromptTemplate::plain);
    }

    /**
     * The template of a name or file.
     *
     * @param nameOrFile a name above, else a file
     * @param chat       the model's chat template, or null where it has none
     * @throws DataException where there is no such template or file, the file is no template, or the model has no chat
     *                       template
     * @throws IOException   where the file cannot be read
     */
    static PromptTemplate of(String nameOrFile, ChatRenderer chat) throws IOException {
        switch (nameOrFile) {
            case ALPACA :
                return text(row -> Alpaca.forward(alpaca(ALPACA, row)));
            case ALPACA_REVERSED :
                return text(row -> Alpaca.reversed(alpaca(ALPACA_REVERSED, row)));
            case CHAT :
                if (chat == null) {
                    throw new DataException(FLAG + " " + CHAT + ": the model has no chat template");
                }
                return new ChatPrompt(chat);
            default :
                Path file = Path.of(nameOrFile);
                if (!Files.isRegularFile(file)) {
                    throw new DataException(FLAG + " " + nameOrFile + ": neither a file nor one of "
                            + String.join(", ", ALPACA, ALPACA_REVERSED, CHAT));
                }
                return JinjaPrompt.read(file);
        }
    }

    private static Example plain(Row row) {
        return switch (row) {
            case Row.Alpaca alpaca -> Alpaca.forward(alpaca);
            case Row.PromptCompletion pair -> new Example(pair.prompt(), pair.completion());
        };
    }

    private static Row.Alpaca alpaca(String name, Row row) {
        return switch (row) {
            case Row.Alpaca alpaca -> alpaca;
            case Row.PromptCompletion _ -> throw new DataException(FLAG + " " + name
                    + " needs rows of instruction, input and output, but this is a prompt and a completion: "
                    + row.where()
                    + "; leave the flag away to train on them as they stand, or take " + FLAG + " " + CHAT);
        };
    }

    private static PromptTemplate text(Function<Row, Example> function) {
        return new PromptTemplate() {
            @Override
            public Example apply(Row row) {
                return function.apply(row);
            }

            @Override
            public boolean writesSpecialTokens() {
                return false;
            }
        };
    }
}
