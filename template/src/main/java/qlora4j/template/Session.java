package qlora4j.template;

import java.time.Clock;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.Rendered.Span;

/** The state of one rendering: what it used of its limits, the line it is at, the texts being written. */
final class Session {

    /** Characters of built text that cost as much as one step. */
    static final int CHARS_PER_STEP = 128;

    final Clock clock;
    /** The line of the template being evaluated. */
    int line;
    private final Limits limits;
    private final Deque<Output> outputs = new ArrayDeque<>();
    private final Map<String, List<Span>> spansOfValues = new IdentityHashMap<>();
    private long steps;
    private int depth;

    Session(Limits limits, Clock clock) {
        this.limits = limits;
        this.clock = clock;
    }

    /** One level deeper; to be followed by {@link #leave()}. */
    void enter() {
        if (depth >= limits.maxDepth()) {
            throw Fault.limit("the template nests deeper than " + limits.maxDepth()
                    + " levels: endless recursion, or Limits.maxDepth is too small for it");
        }
        depth++;
    }

    void leave() {
        depth--;
    }

    /** Counts steps. */
    void tick(long count) {
        steps += count;
        if (steps > limits.maxSteps() || steps < 0) {
            throw Fault.limit("the template takes more than " + limits.maxSteps()
                    + " steps: an endless loop, or Limits.maxSteps is too small for it");
        }
    }

    /** To be called before a text of this many characters is built. */
    void room(long chars) {
        checkLength(chars);
        tick(chars / CHARS_PER_STEP);
    }

    /** Fails where a text is longer than allowed. */
    void checkLength(long chars) {
        if (chars > limits.maxOutput()) {
            throw Fault.limit("the template builds a text of more than " + limits.maxOutput()
                    + " characters: raise Limits.maxOutput if that is meant");
        }
    }

    /** Counts a text that was built. */
    String built(String text) {
        room(text.length());
        return text;
    }

    /** The text being written. */
    Output out() {
        return outputs.element();
    }

    void push() {
        outputs.push(new Output(this));
    }

    /** Ends the innermost text; it remembers the generation spans inside it. */
    String pop() {
        Output done = outputs.pop();
        String text = done.text();
        if (!done.spans().isEmpty()) {
            spansOfValues.put(text, done.spans());
        }
        return text;
    }

    /** Ends the innermost text without using it. */
    void drop() {
        outputs.pop();
    }

    /** The generation spans inside a value: known only for the very object that {@link #pop()} gave. */
    List<Span> spansOf(String value) {
        return spansOfValues.getOrDefault(value, List.of());
    }
}
