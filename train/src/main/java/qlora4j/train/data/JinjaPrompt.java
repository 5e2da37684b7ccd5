package qlora4j.train.data;

import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.ChatTemplate;
import qlora4j.template.Rendered;
import qlora4j.template.TemplateException;

/**
 * A Jinja file of the user's, rendered over all fields of a row ({@code input} is empty where an Alpaca row has none;
 * another field that a row lacks is undefined, which prints as nothing). The block
 * {@code {% generation %}} … {@code {% endgeneration %}} holds what the model learns to write, the same mark that
 * transformers takes for an assistant's tokens; what stands before it is the prompt. It must be rendered once, with
 * some text in it, and nothing but white space may follow it. For instance
 *
 * <pre>
 * Question: {{ instruction }}
 * Answer: {% generation %}{{ output }}{% endgeneration %}
 * </pre>
 *
 * The tokenizer adds BOS, and EOS is appended, as with the named templates: the file does not write them.
 */
final class JinjaPrompt implements PromptTemplate {
    private final Path file;
    private final ChatTemplate template;

    private JinjaPrompt(Path file, ChatTemplate template) {
        this.file = file;
        this.template = template;
    }

    static JinjaPrompt read(Path file) throws IOException {
        try {
            String source = Files.readString(file);
            return new JinjaPrompt(file, ChatTemplate.parse(Rows.withoutByteOrderMark(source)));
        } catch (CharacterCodingException e) {
            throw new DataException(FLAG + " " + file + ": not UTF-8; save the file as UTF-8", e);
        } catch (TemplateException e) {
            throw new DataException(FLAG + " " + file + ", line " + e.line() + ": " + e.getMessage(), e);
        }
    }

    @Override
    public Example apply(Row row) {
        Rendered rendered = render(row);
        List<Rendered.Span> spans = rendered.generationSpans();
        if (spans.size() != 1) {
            throw error(row,
                    "needs one {% generation %} ... {% endgeneration %} around what the model learns to write, but "
                            + spans.size() + " were rendered");
        }
        Rendered.Span span = spans.getFirst();
        if (!rendered.text().substring(span.end()).isBlank()) {
            throw error(row,
                    "text follows {% endgeneration %}, which no step would read: put it into the block or leave it"
                            + " away");
        }
        String completion = rendered.text().substring(span.start(), span.end());
        if (completion.isBlank()) {
            throw error(row, "the {% generation %} block is empty: there is nothing to learn");
        }
        return new Example(rendered.text().substring(0, span.start()), completion);
    }

    private Rendered render(Row row) {
        Map<String, Object> fields = new HashMap<>(row.fields());
        if (row instanceof Row.Alpaca alpaca) {
            fields.put("input", alpaca.input());
        }
        try {
            return template.renderWithSpans(fields);
        } catch (TemplateException e) {
            throw new DataException(
                    FLAG + " " + file + ", line " + e.line() + ": " + e.getMessage() + " (" + row.where()
                            + ")",
                    e);
        }
    }

    private DataException error(Row row, String problem) {
        return new DataException(FLAG + " " + file + ": " + problem + " (" + row.where() + ")");
    }

    @Override
    public boolean writesSpecialTokens() {
        return false;
    }
}
