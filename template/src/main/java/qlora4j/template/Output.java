package qlora4j.template;

import java.util.ArrayList;
import java.util.List;
import qlora4j.template.Rendered.Span;

/** A text being written, with the generation spans inside it. */
final class Output {

    private final Session session;
    private final StringBuilder text = new StringBuilder();
    private final List<Span> spans = new ArrayList<>();

    Output(Session session) {
        this.session = session;
    }

    void write(String value) {
        session.tick(value.length() / Session.CHARS_PER_STEP);
        session.checkLength((long) text.length() + value.length());
        for (Span span : session.spansOf(value)) {
            spans.add(span.shifted(text.length()));
        }
        text.append(value);
    }

    /** Writes the text of a generation block. */
    void writeGeneration(String value) {
        int start = text.length();
        write(value);
        spans.add(new Span(start, text.length()));
    }

    String text() {
        return text.toString();
    }

    List<Span> spans() {
        return spans;
    }
}
