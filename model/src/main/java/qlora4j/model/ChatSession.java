package qlora4j.model;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import qlora4j.model.CausalLm.GenerateOptions;

/**
 * A conversation with a model in its own chat template. Each turn's prompt is the whole conversation; what of it the
 * KV cache holds from the turn before is not computed again. The adapter may change between turns. {@link #stop} may be
 * called from another thread; everything else belongs to one.
 */
public final class ChatSession implements AutoCloseable {
    /** The first cache holds this many tokens; each next one at least twice as many. */
    private static final int FIRST_CAPACITY = 1024;

    private final CausalLm lm;
    private final int positions;
    private final List<Message> turns = new ArrayList<>();
    private String system;
    private String adapter = CausalLm.BASE;
    private Generator generator;
    private int capacity;
    private volatile boolean stopped;

    /**
     * Begins a conversation; the model is the caller's.
     *
     * @throws IllegalStateException if the model has no chat template
     */
    public ChatSession(CausalLm lm) throws IOException {
        this.lm = lm;
        positions = lm.decoder().config().maxPositions();
        lm.tokenizer().renderChat(List.of(new Message("user", "?")), true);
    }

    /** Why an answer ended. */
    public enum End {
        /** The model said so, or a stop string came. */
        FINISHED,
        /** The most new tokens are written. */
        LENGTH,
        /** {@link ChatSession#stop} was called. */
        STOPPED
    }

    /**
     * An answer.
     *
     * @param promptTokens the whole conversation's
     * @param reusedTokens those of them that the cache still held
     * @param newTokens the answer's
     */
    public record Reply(String text, int promptTokens, int reusedTokens, int newTokens, End end) {
    }

    /** The conversation so far, the system message first where there is one. */
    public List<Message> messages() {
        List<Message> all = new ArrayList<>();
        if (system != null) {
            all.add(new Message("system", system));
        }
        all.addAll(turns);
        return all;
    }

    /** The adapter that answers, or {@link CausalLm#BASE}. */
    public String adapter() {
        return adapter;
    }

    /**
     * Another adapter answers from now on; the conversation stays.
     *
     * @throws IllegalArgumentException if there is none of that name
     */
    public void use(String name) {
        lm.use(name);
        adapter = name;
    }

    /** Sets the system message for the next turns; null takes it away. */
    public void system(String text) {
        system = text;
    }

    /** Forgets all turns; the system message stays. */
    public void reset() {
        turns.clear();
    }

    /** Ends the answer that is being written, after the token at hand. */
    public void stop() {
        stopped = true;
    }

    /**
     * Says something and passes the answer on as it comes. Both become part of the conversation, also where the answer
     * was stopped; nothing does when this throws.
     *
     * @param options new tokens are limited to the room that the model's positions leave
     * @throws IllegalArgumentException if the conversation leaves no room for an answer
     * @throws qlora4j.template.TemplateException if the template refuses the conversation
     */
    public Reply say(String text, GenerateOptions options, Consumer<String> onText) throws IOException {
        List<Message> all = messages();
        all.add(new Message("user", text));
        Tokenizer tokenizer = lm.tokenizer(adapter);
        int[] prompt = tokenizer.encode(tokenizer.renderChat(all, true), false);
        int room = positions - prompt.length;
        if (room < 1) {
            throw new IllegalArgumentException("the conversation has " + prompt.length + " tokens with this message;"
                    + " the model was made for " + positions + " and at least one new one must fit: begin anew, or say"
                    + " less");
        }
        GenerateOptions within = options.within(room);
        grow(prompt.length + within.maxNewTokens());
        StringBuilder answer = new StringBuilder();
        stopped = false;
        boolean[] cut = {false};
        int made = lm.stream(generator::resume, adapter, prompt, within, piece -> {
            answer.append(piece);
            onText.accept(piece);
            cut[0] = stopped;
            return !stopped;
        });
        turns.add(new Message("user", text));
        turns.add(new Message("assistant", answer.toString()));
        End end = cut[0] ? End.STOPPED : made < within.maxNewTokens() ? End.FINISHED : End.LENGTH;
        return new Reply(answer.toString(), prompt.length, generator.reused(), made, end);
    }

    /** A cache of at least {@code tokens}; a larger one begins empty. */
    private void grow(int tokens) {
        if (generator != null && tokens <= capacity) {
            return;
        }
        close();
        capacity = Math.min(positions, Math.max(tokens, Math.max(FIRST_CAPACITY, 2 * capacity)));
        generator = new Generator(lm.decoder(), capacity);
    }

    @Override
    public void close() {
        if (generator != null) {
            generator.close();
            generator = null;
        }
    }
}
