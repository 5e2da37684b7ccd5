package qlora4j.model;

import java.util.List;
import java.util.Set;
import java.util.function.Predicate;

/** Tokens of one generation as text: decoded as they come, up to a token or a string that ends it. */
final class GeneratedText {
    private final Tokenizer tokenizer;
    private final StreamingDecoder text;
    private final StopStrings stops;
    private final Set<Integer> eos;
    private final Predicate<String> onText;

    /** @param onText takes the next piece, which may be empty; returns whether to go on */
    GeneratedText(Tokenizer tokenizer, List<String> stopStrings, Set<Integer> eos, Predicate<String> onText) {
        this.tokenizer = tokenizer;
        this.text = tokenizer.streamingDecoder(true);
        this.stops = new StopStrings(stopStrings);
        this.eos = eos;
        this.onText = onText;
    }

    /** Takes a token; whether more are wanted. */
    boolean accept(int token) {
        if (eos.contains(token)) {
            return false;
        }
        // A row of the head that no token uses (vocabularies are padded) is no text, as in transformers.
        boolean goOn = onText.test(tokenizer.contains(token) ? stops.accept(text.accept(token)) : "");
        return goOn && !stops.stopped();
    }

    /** No more tokens come: passes on what was held back. */
    void finish() {
        if (!stops.stopped()) {
            onText.test(stops.accept(text.finish()));
            onText.test(stops.finish());
        }
    }
}
