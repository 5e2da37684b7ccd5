package qlora4j.template;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.time.Clock;
import java.time.Instant;
import java.time.ZoneId;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import qlora4j.template.Rendered.Span;
import qlora4j.template.TemplateException.Kind;

class ChatTemplateTest {

    private static Rendered spans(String template) {
        return ChatTemplate.parse(template).renderWithSpans(Map.of("messages", List.of(
                Map.of("role", "user", "content", "Hi"), Map.of("role", "assistant", "content", "Hello"),
                Map.of("role", "user", "content", "Bye"), Map.of("role", "assistant", "content", "\ud83d\udc4b!"))));
    }

    private static List<String> parts(Rendered rendered) {
        return rendered.generationSpans().stream().map(s -> rendered.text().substring(s.start(), s.end())).toList();
    }

    @Test
    void generationBlocksAreFound() {
        Rendered rendered = spans("{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
                + "{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}");
        assertThat(rendered.text()).isEqualTo("<user>Hi<assistant>Hello<end><user>Bye<assistant>\ud83d\udc4b!<end>");
        assertThat(rendered.generationSpans()).containsExactly(new Span(19, 29), new Span(49, 57));
        assertThat(parts(rendered)).containsExactly("Hello<end>", "\ud83d\udc4b!<end>");
    }

    @Test
    void generationBlocksAreFoundThroughMacrosAndSetBlocks() {
        Rendered rendered = spans("{% macro g(t) %}[{% generation %}{{ t }}{% endgeneration %}]{% endmacro %}"
                + "{% macro w() %}({{ caller() }}){% endmacro %}"
                + "{% set a %}{{ g('one') }}{% endset %}{{ a }}{{ g('two') }}{% call w() %}{{ g('three') }}{% endcall %}"
                + "{{ g('four') ~ '' }}");
        assertThat(rendered.text()).isEqualTo("[one][two]([three])[four]");
        assertThat(parts(rendered)).containsExactly("one", "two", "three");
    }

    @Test
    void generationIsAScopeOfItsOwn() {
        assertThat(spans("{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}").text())
                .isEqualTo("21");
    }

    @Test
    void errorsHaveALine() {
        TemplateException error = catchThrowableOfType(TemplateException.class,
                () -> ChatTemplate.parse("a\n\n{{ 'x'\n + 1 }}").render(Map.of()));
        assertThat(error.line()).isEqualTo(4);
        assertThat(error.kind()).isEqualTo(Kind.TYPE);
        assertThat(error)
                .hasToString("TemplateException (TYPE, line 4): can only concatenate str (not \"int\") to str");
        error = catchThrowableOfType(TemplateException.class, () -> ChatTemplate.parse("a\n{% for %}"));
        assertThat(error.line()).isEqualTo(2);
        error = catchThrowableOfType(TemplateException.class,
                () -> ChatTemplate.parse("\n\n{{ raise_exception('no {{ x }}') }}").render(Map.of()));
        assertThat(error).hasMessage("no {{ x }}");
        assertThat(error.line()).isEqualTo(3);
    }

    @Test
    void unknownNamesFailWhenParsedUnlessAnIfMayAvoidThem() {
        for (String template : List.of("{{ x|nosuch }}", "{{ x is nosuch }}",
                "{% for a in [] %}{{ a|nosuch }}{% endfor %}")) {
            assertThat(catchThrowableOfType(TemplateException.class, () -> ChatTemplate.parse(template)).kind())
                    .isEqualTo(Kind.SYNTAX);
        }
        assertThat(ChatTemplate.parse("{% if false %}{{ x|nosuch }}{% endif %}{{ 'a' if true else x is nosuch }}")
                .render(Map.of())).isEqualTo("a");
        assertThat(catchThrowableOfType(TemplateException.class,
                () -> ChatTemplate.parse("{% if true %}{{ x|nosuch }}{% endif %}").render(Map.of())))
                .hasMessage("No filter named 'nosuch'.");
    }

    @Test
    void theClockIsGiven() {
        Clock clock = Clock.fixed(Instant.parse("2024-02-29T22:30:00Z"), ZoneId.of("Asia/Tokyo"));
        assertThat(ChatTemplate.parse("{{ strftime_now('%d %b %Y %H:%M') }}").withClock(clock).render(Map.of()))
                .isEqualTo("01 Mar 2024 07:30");
    }

    @Test
    void aTemplateCanBeUsedAgain() {
        ChatTemplate template = ChatTemplate.parse("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + k %}{{ ns.n }}");
        assertThat(template.render(Map.of("k", 1)) + template.render(Map.of("k", 2))).isEqualTo("12");
    }
}
