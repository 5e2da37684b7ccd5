package qlora4j.train.data;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;

/**
 * Reads data files. Their first bytes tell the format, whatever they are called: a JSON array of objects, JSON lines
 * (blank lines are passed over), CSV with a line of column names (commas, tabs or semicolons), each of these as UTF-8
 * with or without a byte order mark, plain or gzip; or Parquet. A row's columns tell its form:
 *
 * <ul>
 * <li>{@code messages} or {@code conversations}, a list of {role, content} or {from, value}, and then perhaps
 * {@code tools}, {@code system} and {@code chat_template_kwargs}: a {@link Row.Conversation};</li>
 * <li>{@code instruction} and {@code output} (and {@code input}, which may be null, empty or missing): a
 * {@link Row.Alpaca};</li>
 * <li>{@code prompt} and {@code completion}: a {@link Row.PromptCompletion}, or a {@link Row.Conversation} where they are
 * lists of messages;</li>
 * <li>{@code text}: a {@link Row.Text}.</li>
 * </ul>
 *
 * Other columns are kept and may be anything. Lists may stand there as JSON text, as in CSV.
 */
public final class Rows {
    private Rows() {
    }

    /**
     * The rows of a file, in its order; at least one.
     *
     * @throws DataException where the file is not as the class describes it, or a completion is empty
     * @throws IOException   where the file cannot be read
     */
    public static List<Row> read(Path file) throws IOException {
        return DataFile.read(file).rows().stream().map(raw -> RowForms.row(raw, Columns.AS_NAMED)).toList();
    }
}
