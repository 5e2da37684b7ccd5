package qlora4j.verify.fuzz;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.List;
import java.util.Map;
import qlora4j.template.ChatTemplate;
import qlora4j.template.Limits;

/** A chat template: parsed, and rendered with a conversation under limits that end each input in a moment. */
final class TemplateTarget extends FuzzTarget {
    private static final Limits LIMITS = new Limits(1 << 16, 20_000, 100);
    private static final Clock CLOCK = Clock.fixed(Instant.EPOCH, ZoneOffset.UTC);
    private static final Map<String, Object> CONTEXT = Map.of("messages",
            List.of(Map.of("role", "system", "content", "Be <b>brief</b>."), Map.of("role", "user", "content", "a\nb"),
                    Map.of("role", "assistant", "content", "", "tool_calls",
                            List.of(Map.of("name", "f", "arguments", Map.of("x", 1.5, "y", List.of(1, 2)))))),
            "tools", List.of(Map.of("name", "f")), "bos_token", "<s>", "eos_token", "</s>", "add_generation_prompt",
            true, "n", -7, "x", 2.5);

    TemplateTarget() {
        super("template");
    }

    @Override
    int tries() {
        return 4000;
    }

    @Override
    List<byte[]> seeds() {
        return List.of(utf8("""
                {%- for m in messages %}{% if m.role == 'user' and not loop.first -%}
                {{ '<|' + m['role'] + '|>' ~ m.content | trim | upper }}{% elif m.tool_calls is defined %}
                {{ m.tool_calls | tojson(indent=2) }}{% else %}{{ raise_exception('no') if false else m.role[:2] }}
                {%- endif %}{% endfor %}{{ bos_token if add_generation_prompt }}"""), utf8("""
                {% macro f(a, b=2) %}{{ a + b }}{{ varargs }}{% endmacro %}{{ f(1) }}
                {% set ns = namespace(i=0) %}{% for i in range(3, -3, -2) recursive %}{% set ns.i = ns.i + i %}
                {{ loop.index0 }}{% endfor %}{{ ns.i // 2 ** 3 % 5 }}{{ "%05.2f|%s" % (x, n) }}
                {{ "{0:>8}{1!r}".format(n, "a") }}"""), utf8("""
                {{ strftime_now("%d %b %Y") }}{{ messages | selectattr('role', 'equalto', 'user') | map(attribute=
                'content') | join(', ') }}{{ "a,b".split(',') | last }}{{ [3, 1, 2] | sort(reverse=true) }}
                {% generation %}{{ messages[-1]['content'].replace('a', 'b', 1) }}{% endgeneration %}
                {{ {'a': 1, 'b': [true, none]} | dictsort }}{% filter lower %}X{% endfilter %}{# comment #}
                {% raw %}{{ }}{% endraw %}{{ messages | length is even }}{{ "x" * 3 in ["xxx"] }}"""));
    }

    @Override
    void read(byte[] input, Path scratch) {
        ChatTemplate.parse(new String(input, StandardCharsets.UTF_8)).withLimits(LIMITS).withClock(CLOCK)
                .renderWithSpans(CONTEXT);
    }
}
