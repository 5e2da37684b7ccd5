package qlora4j.model;

import java.util.Arrays;

/**
 * Turns tokens into text as they arrive. Only text that no later token can change is given out: a character whose bytes
 * are spread over several tokens waits for the last of them. All pieces and {@link #finish()} together are
 * what {@link Tokenizer#decode} gives for all tokens. For one text; not for several threads at once.
 *
 * <p>Where the tokenizer's decoder works token by token (Llama's and all byte-level ones), only the tokens since the last
 * whole character are decoded, behind a letter that takes the part of the text before: the first token alone loses its
 * leading space. With other decoders all tokens are decoded each time.
 */
public final class StreamingDecoder {
    private static final char UNDECODABLE = '\uFFFD';
    private static final int INITIAL_WINDOW = 16;

    private final Tokenizer tokenizer;
    private final boolean skipSpecial;
    private int[] window = new int[INITIAL_WINDOW];
    private int length;
    /** Whether tokens before the window have been given out. */
    private boolean advanced;
    /** The window's text that has been given out. */
    private String shown = "";

    StreamingDecoder(Tokenizer tokenizer, boolean skipSpecial) {
        this.tokenizer = tokenizer;
        this.skipSpecial = skipSpecial;
    }

    /**
     * Takes the next token.
     *
     * @return the text that is certain now; may be empty
     * @throws IllegalArgumentException if the vocabulary has no such token
     */
    public String accept(int id) {
        tokenizer.check(id);
        if (skipSpecial && tokenizer.isSpecial(id)) {
            return "";
        }
        if (length == window.length) {
            window = Arrays.copyOf(window, 2 * length);
        }
        window[length++] = id;
        if (tokenizer.isByte(id)) {
            return "";
        }
        String text = text();
        int certain = text.length();
        while (certain > shown.length() && text.charAt(certain - 1) == UNDECODABLE) {
            certain--;
        }
        String piece = text.substring(shown.length(), certain);
        if (certain == text.length() && tokenizer.decodesPiecewise() && (advanced || certain > 0)) {
            restart();
        } else {
            shown = text.substring(0, certain);
        }
        return piece;
    }

    /** No more tokens come: the rest of the text. The decoder must not be used any more. */
    public String finish() {
        String rest = text().substring(shown.length());
        restart();
        return rest;
    }

    private void restart() {
        advanced = true;
        length = 0;
        shown = "";
    }

    private String text() {
        int[] ids = Arrays.copyOf(window, length);
        String text = advanced && length > 0 ? tokenizer.decodeInside(ids) : tokenizer.decode(ids, skipSpecial);
        if (!text.startsWith(shown)) {
            throw new IllegalStateException("a later token changed text that was given out: \"" + shown + "\" became \""
                    + text + "\"");
        }
        return text;
    }
}
