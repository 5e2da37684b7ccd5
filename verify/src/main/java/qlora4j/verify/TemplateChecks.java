package qlora4j.verify;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.template.ChatTemplate;
import qlora4j.template.TemplateException;

/** Texts and errors of a bundle's {@code chat_templates/cases.json}: a check for each template. */
final class TemplateChecks {
    static final String CASES = "cases.json";
    /** Errors that a template raised itself: their wording counts. */
    static final String RAISED = "TemplateError";
    /** The moment that the recorded {@code strftime_now} shows. */
    private static final Clock CLOCK =
            Clock.fixed(LocalDateTime.of(2026, 7, 4, 13, 5, 6).toInstant(ZoneOffset.UTC), ZoneOffset.UTC);

    private TemplateChecks() {
    }

    static boolean describes(Path directory) {
        return Files.exists(directory.resolve(CASES));
    }

    static void run(Session session, String name, Path directory) throws IOException {
        JsonNode root = JsonRecord.read(directory.resolve(CASES));
        Map<String, List<JsonNode>> byTemplate = new LinkedHashMap<>();
        for (JsonNode c : root.get("cases")) {
            byTemplate.computeIfAbsent(c.get("template").textValue(), _ -> new ArrayList<>()).add(c);
        }
        byTemplate.forEach((template, cases) -> session.report().check(name + "." + template,
                () -> rendered(root.get("templates").get(template).textValue(), cases)));
    }

    private static Outcome rendered(String template, List<JsonNode> cases) {
        TextTally tally = new TextTally();
        for (JsonNode c : cases) {
            String what = c.get("name").textValue();
            String text = null;
            TemplateException error = null;
            try {
                text = ChatTemplate.parse(template).withClock(CLOCK).render(context(c.get("context")));
            } catch (TemplateException e) {
                error = e;
            }
            if (!c.has("error")) {
                tally.text(what, error == null ? text : error.toString(), c.get("text").textValue());
            } else if (error == null) {
                tally.text(what, "no error but the text " + text, c.get("error").textValue());
            } else if (c.path("error_type").asText().equals(RAISED)) {
                tally.text(what, error.getMessage(), c.get("error").textValue());
            } else {
                // Another implementation's own messages: that there is one is what counts.
                tally.text(what, "", error.getMessage().isEmpty() ? "a message" : "");
            }
        }
        return tally.outcome();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> context(JsonNode json) {
        return JsonRecord.MAPPER.convertValue(json, Map.class);
    }
}
