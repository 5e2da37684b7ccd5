package qlora4j.verify;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import qlora4j.model.Message;
import qlora4j.model.StreamingDecoder;
import qlora4j.model.Tokenizer;
import qlora4j.template.ChatTemplate;
import qlora4j.template.TemplateException;

/** Encodings, decodings and rendered conversations of a bundle's {@code tokenizers}. */
final class TokenizerChecks {
    static final String EXPECTED = "expected.json";

    private final Session session;
    private final String name;
    private final JsonNode root;

    private TokenizerChecks(Session session, String name, JsonNode root) {
        this.session = session;
        this.name = name;
        this.root = root;
    }

    static boolean describes(Path directory) throws IOException {
        return Files.exists(directory.resolve(EXPECTED))
                && JsonRecord.read(directory.resolve(EXPECTED)).path("expected").isObject();
    }

    static void run(Session session, String name, Path directory) throws IOException {
        JsonNode root = JsonRecord.read(directory.resolve(EXPECTED));
        TokenizerChecks checks = new TokenizerChecks(session, name, root);
        for (Map.Entry<String, JsonNode> e : root.get("expected").properties()) {
            try (Tokenizer tokenizer = Tokenizer.open(directory.resolve(e.getKey()))) {
                checks.one(name + "." + e.getKey(), tokenizer, e.getValue());
            }
        }
    }

    private void one(String prefix, Tokenizer tokenizer, JsonNode cases) {
        Report report = session.report();
        report.check(prefix + ".encode", () -> encoded(tokenizer, cases.get("encode"), true));
        report.check(prefix + ".encode without special tokens",
                () -> encoded(tokenizer, cases.get("encode"), false));
        report.check(prefix + ".decode", () -> decoded(tokenizer, cases.get("decode"), false));
        report.check(prefix + ".decode without special tokens",
                () -> decoded(tokenizer, cases.get("decode"), true));
        TreeSet<String> templates = new TreeSet<>();
        cases.get("chat").forEach(c -> templates.add(c.get("template").textValue()));
        for (String template : templates) {
            report.check(prefix + ".chat." + template, () -> rendered(tokenizer, cases.get("chat"), template));
        }
    }

    private static Outcome encoded(Tokenizer tokenizer, JsonNode cases, boolean special) {
        TextTally tally = new TextTally();
        for (JsonNode c : cases) {
            String text = c.get(0).textValue();
            tally.ids(text, tokenizer.encode(text, special), JsonRecord.ints(c.get(special ? 1 : 2)));
        }
        return tally.outcome();
    }

    private static Outcome decoded(Tokenizer tokenizer, JsonNode cases, boolean skipSpecial) {
        TextTally tally = new TextTally();
        for (JsonNode c : cases) {
            int[] ids = JsonRecord.ints(c.get(0));
            String text = c.get(skipSpecial ? 2 : 1).textValue();
            tally.text("ids " + c.get(0), tokenizer.decode(ids, skipSpecial), text);
            StreamingDecoder stream = tokenizer.streamingDecoder(skipSpecial);
            StringBuilder pieces = new StringBuilder();
            for (int id : ids) {
                pieces.append(stream.accept(id));
            }
            tally.text("ids " + c.get(0) + " one by one", pieces.append(stream.finish()).toString(), text);
        }
        return tally.outcome();
    }

    private Outcome rendered(Tokenizer tokenizer, JsonNode cases, String name) {
        ChatTemplate template = ChatTemplate.parse(root.get("templates").get(name).textValue());
        TextTally tally = new TextTally();
        for (JsonNode c : cases) {
            if (!c.get("template").textValue().equals(name)) {
                continue;
            }
            String what = "conversation " + c.get("conversation");
            Map<String, Object> context = tokenizer.chatContext(
                    messages(root.get("conversations").get(c.get("conversation").intValue())),
                    c.get("add_generation_prompt").booleanValue());
            if (c.has("error")) {
                tally.text(what, error(template, context), c.get("error").textValue());
            } else {
                String text = template.render(context);
                tally.text(what, text, c.get("text").textValue());
                tally.ids(what, tokenizer.encode(text, false), JsonRecord.ints(c.get("ids")));
            }
        }
        return tally.outcome();
    }

    private static String error(ChatTemplate template, Map<String, Object> context) {
        try {
            return "no error but the text " + template.render(context);
        } catch (TemplateException e) {
            return e.getMessage();
        }
    }

    /** Recorded turns. */
    static List<Message> messages(JsonNode turns) {
        List<Message> messages = new ArrayList<>();
        for (JsonNode turn : turns) {
            messages.add(new Message(turn.get("role").textValue(), turn.get("content").textValue()));
        }
        return messages;
    }
}
