package qlora4j.template;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.template.TemplateException.Kind;

/** What templates and texts cannot do. */
class SandboxTest {

    private static final String CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content']"
            + " + '<|im_end|>' + '\\n' }}{% endfor %}";

    private static Map<String, Object> chat(String content) {
        return Map.of("messages", List.of(Map.of("role", "user", "content", content)));
    }

    private static TemplateException error(String template, Map<String, ?> context) {
        try {
            String text = ChatTemplate.parse(template).render(context);
            throw new AssertionError("no error, but a text of " + text.length() + " characters");
        } catch (TemplateException expected) {
            return expected;
        }
    }

    @Property(tries = 500)
    void anyTextIsRenderedVerbatim(@ForAll String content) {
        assertThat(ChatTemplate.parse(CHATML).render(chat(content)))
                .isEqualTo("<|im_start|>user\n" + content + "<|im_end|>\n");
    }

    @ParameterizedTest
    @ValueSource(strings = {"{{ 7 * 7 }}", "{% for x in range(9) %}a{% endfor %}", "{# gone #}", "{%- raw -%}", "' + '",
            "\\n",
            "{{ raise_exception('x') }}", "}}{{", "{% endfor %}", "\r\n", "\u0000", "\ud800", "%s {0}"})
    void codeInTextStaysText(String content) {
        assertThat(ChatTemplate.parse(CHATML).render(chat(content))).contains("user\n" + content + "<|im_end|>");
    }

    @ParameterizedTest
    @ValueSource(strings = {"x.getClass()", "x.class.name", "x.toString()", "x['class'].forName('java.lang.Runtime')",
            "m.getClass()", "m.entrySet()", "l.size()", "l.stream()", "n.intValue()", "namespace.name()"})
    void hostMethodsDoNotExist(String expression) {
        TemplateException error =
                error("{{ " + expression + " }}", Map.of("x", "text", "m", Map.of("k", 1), "l", List.of(1),
                        "n", 5));
        assertThat(error.kind()).isEqualTo(Kind.UNDEFINED);
    }

    @ParameterizedTest
    @ValueSource(strings = {"x.__class__.__mro__", "''.__class__.__base__.__subclasses__()", "range.__globals__['a']",
            "x['__class__']['__mro__']", "(x|attr('__class__')).__mro__", "'{0.__class__.__mro__}'.format(x)",
            "l.append(1)", "l.clear()", "l.sort()", "l.pop()", "m.update(k=2)", "m.pop('k')", "m.setdefault('z', 1)"})
    void privateAndMutatingAttributesAreRefused(String expression) {
        TemplateException error =
                error("{{ " + expression + " }}", Map.of("x", "text", "m", Map.of("k", 1), "l", List.of(1)));
        assertThat(error.kind()).isEqualTo(Kind.SECURITY);
        assertThat(error).hasMessageContaining("is unsafe");
    }

    @Test
    void onlyPlainDataIsTakenFromTheHost() {
        assertThatThrownBy(
                () -> ChatTemplate.parse("{{ a }}").render(Map.of("a", List.of(Map.of("b", new StringBuilder())))))
                .isInstanceOf(TemplateException.class).hasMessageContaining("java.lang.StringBuilder at a[0].b");
        List<Object> circle = new ArrayList<>();
        circle.add(circle);
        assertThat(error("{{ a }}", Map.of("a", circle)).kind()).isEqualTo(Kind.CONTEXT);
        Map<String, Object> plain = new HashMap<>();
        plain.put("none", null);
        plain.put("big", BigInteger.TWO.pow(70));
        plain.put("f", 1.5f);
        plain.put("i", 7);
        assertThat(ChatTemplate.parse("{{ none2 is none }}{{ none }}{{ big }} {{ f }} {{ i }}").render(plain))
                .isEqualTo("FalseNone1180591620717411303424 1.5 7");
    }

    @ParameterizedTest
    @ValueSource(strings = {
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
            "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
            "{{ 'x' * 9999999999 }}", "{{ [0] * 9999999999 }}", "{{ [[0] * 99999] * 99999 }}",
            "{{ 'x'.center(999999999) }}", "{{ 'x'|center(999999999) }}", "{{ 'x'.ljust(999999999) }}",
            "{{ '1'.zfill(999999999) }}",
            "{{ '%999999999d' % 1 }}", "{{ '%.999999999f' % 1 }}", "{{ '{:>999999999}'.format(1) }}",
            "{{ '{:.99999999f}'.format(1.0) }}",
            "{{ 'x'|indent(999999999, true) }}", "{{ [1, 2]|tojson(indent=999999999) }}",
            "{{ '\\t'.expandtabs(999999999) }}",
            "{{ 9 ** 999999999 }}", "{{ 10 ** 9 ** 9 ** 9 ** 9 ** 9 }}", "{{ [1]|batch(999999999, 0)|list }}",
            "{{ [1]|slice(99999999)|list }}",
            "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{% set ns = namespace(s='xx') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
            "{% set ns = namespace(s='xx') %}{% for i in range(99) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}",
            "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
            "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
            "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}"
                    + "{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
            "{% set ns = namespace(l=(1,)) %}{% for i in range(99) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1} }}",
            "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
            "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
            "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
            "{% set a = 'a' * 9999999 %}{% set b = 'a' * 999999 + 'b' %}{{ b in a }}"})
    void runawayTemplatesStop(String template) {
        assertThat(error(template, Map.of()).kind()).isEqualTo(Kind.LIMIT);
    }

    @Test
    void aHugeRangeIsRefusedAsInJinja() {
        assertThat(error("{{ range(100001)|list }}", Map.of())).hasMessage(
                "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    }

    @Test
    void aSourceThatNestsTooDeeplyIsRefused() {
        for (String nested : List.of("{{ " + "(".repeat(100_000) + " }}", "{{ " + "not ".repeat(100_000) + "x }}",
                "{{ " + "-".repeat(100_000) + "1 }}", "{{ " + "[".repeat(100_000) + " }}", "{% if x %}".repeat(100_000),
                "{{ " + "x if x else ".repeat(100_000) + "x }}")) {
            assertThat(error(nested, Map.of()).kind()).isEqualTo(Kind.SYNTAX);
        }
    }

    @Test
    void longChainsAreNoNesting() {
        String sum = "{{ 1" + " + 1".repeat(5_000) + " }}";
        assertThat(ChatTemplate.parse(sum).render(Map.of())).isEqualTo("5001");
        String concat = "{{ 1" + " ~ 1".repeat(5_000) + " }}";
        assertThat(ChatTemplate.parse(concat).render(Map.of())).hasSize(5001);
    }

    @Test
    void theDefaultDepthFitsASmallStack() throws InterruptedException {
        List<Throwable> seen = new ArrayList<>();
        Runnable deep = () -> {
            try {
                ChatTemplate.parse(
                        "{% macro f(n) %}{% if true %}{% for x in [1] %}{{ '' ~ [f(n + 1)] }}{% endfor %}{% endif %}"
                                + "{% endmacro %}{{ f(0) }}")
                        .render(Map.of());
            } catch (TemplateException error) {
                seen.add(error);
            }
        };
        Thread thread = new Thread(null, deep, "small stack", 640 << 10);
        thread.start();
        thread.join();
        assertThat(seen).hasSize(1);
        assertThat(seen.getFirst()).hasMessageContaining("nests deeper than " + Limits.DEFAULT.maxDepth() + " levels");
    }

    @Test
    void limitsCanBeSet() {
        ChatTemplate template = ChatTemplate.parse("{% for i in range(10) %}abc{% endfor %}");
        assertThat(template.withLimits(new Limits(30, 100, 10)).render(Map.of())).hasSize(30);
        assertThatThrownBy(() -> template.withLimits(new Limits(29, 100, 10)).render(Map.of()))
                .hasMessageContaining("more than 29 characters");
        assertThatThrownBy(() -> template.withLimits(new Limits(30, 9, 10)).render(Map.of()))
                .hasMessageContaining("more than 9 steps");
        assertThatThrownBy(() -> new Limits(0, 1, 1)).isInstanceOf(IllegalArgumentException.class);
    }
}
