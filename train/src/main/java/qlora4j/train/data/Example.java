package qlora4j.train.data;

import java.util.List;
import java.util.stream.Collectors;

/**
 * A row as the model will read it.
 *
 * @param segments its text in order
 * @param apart    how many of them are encoded by themselves before the others, as a prompt is when text is generated;
 *                 {@link #JOINED}: all in one, as transformers encodes a conversation
 * @param specials whether BOS and the like stand in the text, so that the tokenizer must not add them
 * @param whole    whether all is learned, so that a row that is too long loses its end
 * @param trailing how many messages behind the last answer were left out, from which nothing would be learned
 * @param spaced   whether a prompt is written with other white space when its answer follows
 */
public record Example(List<Segment> segments, int apart, boolean specials, boolean whole, int trailing,
        boolean spaced) {
    /** All segments are encoded in one. */
    public static final int JOINED = -1;

    public Example {
        segments = List.copyOf(segments);
    }

    /** The model is given the prompt, and learns to write the completion. */
    public Example(String prompt, String completion) {
        this(List.of(Segment.template(prompt), Segment.learned(Segment.COMPLETION, completion)));
    }

    /** What is learned follows what is given, and is encoded apart from it. */
    Example(List<Segment> segments) {
        this(segments, untrained(segments), false, false, 0, false);
    }

    private static int untrained(List<Segment> segments) {
        int count = 0;
        while (count < segments.size() && !segments.get(count).trained()) {
            count++;
        }
        return count;
    }

    /** The same with all of it learned. */
    Example wholeLearned() {
        return new Example(segments.stream().map(s -> new Segment(s.text(), s.role(), s.field(), true)).toList(),
                apart, specials, true, trailing, spaced);
    }

    boolean joined() {
        return apart == JOINED;
    }

    /** The text before the first that is learned. */
    public String prompt() {
        return text(segments.subList(0, untrained(segments)));
    }

    /** The text from the first that is learned. */
    public String completion() {
        return text(segments.subList(untrained(segments), segments.size()));
    }

    /** All of the text. */
    public String text() {
        return text(segments);
    }

    static String text(List<Segment> segments) {
        return segments.stream().map(Segment::text).collect(Collectors.joining());
    }
}
