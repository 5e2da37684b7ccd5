package qlora4j.train.data;

import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
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
 * transformers takes for an assistant's tokens; what stands before it is the prompt. It must be rendered once (with
 * {@link LossOn#ASSISTANT} as often as there are answers), with some text in it, and nothing but white space may follow
 * the last. For instance
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
    private final LossOn loss;

    private JinjaPrompt(Path file, ChatTemplate template, LossOn loss) {
        this.file = file;
        this.template = template;
        this.loss = loss;
    }

    static JinjaPrompt read(Path file, LossOn loss) throws IOException {
        try {
            String source = Files.readString(file);
            return new JinjaPrompt(file, ChatTemplate.parse(DataFile.withoutByteOrderMark(source)), loss);
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
        if (spans.isEmpty() || spans.size() > 1 && loss != LossOn.ASSISTANT) {
            throw error(row,
                    "needs one {% generation %} ... {% endgeneration %} around what the model learns to write, but "
                            + spans.size() + " were rendered"
                            + (spans.size() > 1 ? " (--assistant-only-loss takes several)" : ""));
        }
        String text = rendered.text();
        if (!text.substring(spans.getLast().end()).isBlank()) {
            throw error(row,
                    "text follows {% endgeneration %}, which no step would read: put it into the block or leave it"
                            + " away");
        }
        List<Segment> segments = new ArrayList<>();
        int at = 0;
        for (Rendered.Span span : spans) {
            segments.add(Segment.template(text.substring(at, span.start())));
            String learned = text.substring(span.start(), span.end());
            if (learned.isBlank()) {
                throw error(row, "the {% generation %} block is empty: there is nothing to learn");
            }
            segments.add(Segment.learned(null, learned));
            at = span.end();
        }
        Example example =
                spans.size() == 1 ? new Example(segments)
                        : new Example(segments, Example.JOINED, false, false, 0, false);
        return loss == LossOn.ALL ? example.wholeLearned() : example;
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
}
