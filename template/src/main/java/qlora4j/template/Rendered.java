package qlora4j.template;

import java.util.List;

/**
 * A rendered template.
 *
 * @param text            the text
 * @param generationSpans the parts written inside {@code {% generation %}} blocks, in the order of the text. A block
 *                        inside a macro or a set block counts where that value is printed unchanged; once it was joined
 *                        to other text or filtered it has no known place and is left out
 */
public record Rendered(String text, List<Span> generationSpans) {

    /**
     * A part of a text.
     *
     * @param start index of its first {@code char}
     * @param end   index after its last {@code char}
     */
    public record Span(int start, int end) {

        Span shifted(int by) {
            return new Span(start + by, end + by);
        }
    }

    /** Copies the spans. */
    public Rendered {
        generationSpans = List.copyOf(generationSpans);
    }
}
