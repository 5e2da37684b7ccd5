package qlora4j.train.data;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.function.BiFunction;
import java.util.stream.Collectors;
import qlora4j.template.Rendered;

/** Data and a tokenizer to test with. */
final class Samples {
    static final int BOS = 1;
    static final int EOS = 2;
    /** What {@link #TOKENIZER} and {@link #CHAT} take for EOS in a text. */
    static final String EOS_TEXT = "<end>";

    /** One token for each character, BOS before a text, and the EOS that a text spells out recognized. */
    static final TextEncoder TOKENIZER = new TextEncoder() {
        @Override
        public int[] encode(String text, boolean addSpecialTokens) {
            String marked = text.replace(EOS_TEXT, String.valueOf((char) EOS));
            String whole = addSpecialTokens ? (char) BOS + marked : marked;
            return whole.chars().toArray();
        }

        @Override
        public Offsets encodeWithOffsets(String text) {
            int[] ids = encode(text, false);
            int[] starts = new int[ids.length];
            int[] ends = new int[ids.length];
            for (int t = 0, at = 0; t < ids.length; t++) {
                starts[t] = at;
                at += text.startsWith(EOS_TEXT, at) ? EOS_TEXT.length() : 1;
                ends[t] = at;
            }
            return new Offsets(ids, starts, ends);
        }
    };

    /** A chat template that writes BOS as a character, and ends each turn with EOS and a new line. */
    static final ChatRenderer CHAT = chat((chat, addGenerationPrompt) -> (char) BOS + chat.messages().stream()
            .map(message -> "<" + message.get("role") + ">\n" + message.get("content") + EOS_TEXT + "\n")
            .collect(Collectors.joining())
            + (addGenerationPrompt ? "<assistant>\n" : ""));

    private Samples() {
    }

    /** A chat template as a function, which marks nothing. */
    static ChatRenderer chat(BiFunction<Chat, Boolean, String> template) {
        return new ChatRenderer() {
            @Override
            public Rendered render(Chat chat, boolean addGenerationPrompt) {
                return new Rendered(template.apply(chat, addGenerationPrompt), List.of());
            }

            @Override
            public String eosText() {
                return EOS_TEXT;
            }
        };
    }

    static Path file(String name) {
        try {
            return Path.of(Samples.class.getResource(name).toURI());
        } catch (URISyntaxException e) {
            throw new AssertionError(e);
        }
    }

    static List<Row> rows(String name) throws IOException {
        return Rows.read(file(name));
    }

    static Row pair(String prompt, String completion) {
        return new Row.PromptCompletion("here", prompt, completion, Map.of());
    }

    static Row.Alpaca alpaca(String instruction, String input, String output) {
        return new Row.Alpaca("here", instruction, input, output, Map.of("instruction", instruction, "output", output));
    }

    static String text(int[] ids, int from, int to) {
        StringBuilder text = new StringBuilder();
        for (int i = from; i < to; i++) {
            text.append((char) ids[i]);
        }
        return text.toString();
    }
}
