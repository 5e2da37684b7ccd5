package qlora4j.train.data;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Splits a row into what the model is given and what it learns to write. The flag {@code --template} names one of
 *
 * <ul>
 * <li>{@code alpaca}: the prompt of the Stanford Alpaca project (its train.py, PROMPT_DICT), with and without input;
 * nothing follows {@code ### Response:}, and the completion is the row's output.</li>
 * <li>{@code alpaca-reversed}: given the response, predict the instruction, then after a blank line the input where
 * there is one.</li>
 * <li>{@code chat}: the model's own chat template over the row's messages, or over one user's message (the instruction,
 * then after a blank line the input where there is one; or the row's prompt) and the assistant's answer. The prompt is
 * what stands before the last answer, rendered with the generation prompt, the completion what the whole conversation
 * adds to it; with {@link LossOn#ASSISTANT} every answer is learned ({@link ChatPrompt}).</li>
 * <li>a file: a Jinja template over all of the row's fields ({@link JinjaPrompt}), with one
 * {@code {% generation %}} … {@code {% endgeneration %}} around what the model learns to write.</li>
 * </ul>
 *
 * Without the flag, Alpaca rows take {@code alpaca}, conversations {@code chat}, and prompt/completion rows and texts are
 * taken as they stand.
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

    /** The same text, with segments as small as their origin can be told. */
    default Example explain(Row row) {
        return apply(row);
    }

    /** One line that says how answers are told from the rest, where that is a choice; else null. */
    default String masks() {
        return null;
    }

    /** The template that is used where none was asked for, by a row's form; conversations need a chat template. */
    static PromptTemplate byForm() {
        return byForm(null, LossOn.COMPLETION);
    }

    /**
     * The same for a model.
     *
     * @param chat the model's chat template, or null where it has none
     */
    static PromptTemplate byForm(ChatRenderer chat, LossOn loss) {
        return new ByForm(chat, loss);
    }

    /** The template of a name or file, which learns the completion. */
    static PromptTemplate of(String nameOrFile, ChatRenderer chat) throws IOException {
        return of(nameOrFile, chat, LossOn.COMPLETION);
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
    static PromptTemplate of(String nameOrFile, ChatRenderer chat, LossOn loss) throws IOException {
        switch (nameOrFile) {
            case ALPACA :
                return new NamedPrompt(ALPACA, Alpaca::forward, loss);
            case ALPACA_REVERSED :
                return new NamedPrompt(ALPACA_REVERSED, Alpaca::reversed, loss);
            case CHAT :
                if (chat == null) {
                    throw new DataException(FLAG + " " + CHAT + ": the model has no chat template");
                }
                return new ChatPrompt(chat, loss);
            default :
                Path file = Path.of(nameOrFile);
                if (!Files.isRegularFile(file)) {
                    throw new DataException(FLAG + " " + nameOrFile + ": neither a file nor one of "
                            + String.join(", ", ALPACA, ALPACA_REVERSED, CHAT));
                }
                return JinjaPrompt.read(file, loss);
        }
    }
}
