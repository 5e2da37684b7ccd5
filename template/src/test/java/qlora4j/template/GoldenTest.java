package qlora4j.template;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.time.Clock;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Templates and contexts with the text or error that Jinja2 3.1.6 gives, set up as transformers does. */
class GoldenTest {

    /** The moment that the recorded {@code strftime_now} showed. */
    static final Clock CLOCK =
            Clock.fixed(LocalDateTime.of(2026, 7, 4, 13, 5, 6).toInstant(ZoneOffset.UTC), ZoneOffset.UTC);
    private static final ObjectMapper JSON = new ObjectMapper()
            .enable(DeserializationFeature.FAIL_ON_READING_DUP_TREE_KEY);

    record Case(String name, String template, Map<String, Object> context, String text, String error,
            String errorType) {

        @Override
        public String toString() {
            return name;
        }
    }

    static List<Case> cases(String resource) throws IOException {
        List<Case> cases = new ArrayList<>();
        try (InputStream in = GoldenTest.class.getResourceAsStream(resource)) {
            JsonNode root = JSON.readTree(in);
            for (JsonNode node : root.get("cases")) {
                @SuppressWarnings("unchecked")
                Map<String, Object> context = JSON.convertValue(node.has("context") ? node.get("context")
                        : root.get("context"), Map.class);
                cases.add(new Case(node.get("name").asText(),
                        root.get("templates").get(node.get("template").asText()).asText(),
                        context, node.path("text").textValue(), node.path("error").textValue(),
                        node.path("error_type").textValue()));
            }
        }
        return cases;
    }

    static List<Case> published() throws IOException {
        return cases("cases.json");
    }

    static List<Case> constructs() throws IOException {
        return cases("constructs.json");
    }

    @Test
    void theRecordIsWhole() throws IOException {
        assertThat(published()).hasSize(389);
    }

    @ParameterizedTest
    @MethodSource("published")
    void rendersAsJinja(Case c) {
        check(c);
    }

    @ParameterizedTest
    @MethodSource("constructs")
    void treatsEveryConstructAsJinja(Case c) {
        check(c);
    }

    static void check(Case c) {
        String text = null;
        TemplateException error = null;
        try {
            text = ChatTemplate.parse(c.template()).withClock(CLOCK).render(c.context());
        } catch (TemplateException raised) {
            error = raised;
        }
        if (c.error() == null) {
            assertThat(error).as("an error of %s", c.template()).isNull();
            assertThat(text).isEqualTo(c.text());
            return;
        }
        assertThat(error).as("the error of %s, which gave %s", c.template(), text).isNotNull();
        assertThat(error.line()).isPositive();
        if (c.errorType().equals("TemplateError")) {
            assertThat(error).hasMessage(c.error());
            assertThat(error.kind()).isEqualTo(TemplateException.Kind.RAISED);
        }
        if (c.errorType().equals("UndefinedError") && error.kind() == TemplateException.Kind.UNDEFINED
                || c.errorType().equals("SecurityError")) {
            assertThat(error).hasMessage(c.error());
        }
    }
}
