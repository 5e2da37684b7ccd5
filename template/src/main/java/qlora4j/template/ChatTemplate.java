package qlora4j.template;

import java.time.Clock;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Pattern;
import qlora4j.template.TemplateException.Kind;

/**
 * A chat template: Jinja as Hugging Face transformers sets it up. The language is that of Jinja2 3.1.6 in its immutable
 * sandbox with {@code trim_blocks}, {@code lstrip_blocks}, {@code {% generation %}}, {@code {% break %}},
 * {@code {% continue %}}, {@code raise_exception}, {@code strftime_now} and a {@code tojson} that escapes no HTML.
 * Values of the context are copied into the template's own; no host object can be reached, and text in
 * them is never read as template code. Instances are immutable and can be used by several threads.
 */
public final class ChatTemplate {

    /** How transformers tells whether a template marks what the assistant says. */
    private static final Pattern GENERATION = Pattern.compile("\\{%-?\\s*generation\\s*-?%\\}");

    private final List<Stmt> body;
    private final boolean marksGeneration;
    private final Limits limits;
    private final Clock clock;

    private ChatTemplate(List<Stmt> body, boolean marksGeneration, Limits limits, Clock clock) {
        this.body = body;
        this.marksGeneration = marksGeneration;
        this.limits = limits;
        this.clock = clock;
    }

    /**
     * Reads a template; it will use {@link Limits#DEFAULT} and the system's clock.
     *
     * @param source the template's text
     * @return the template
     * @throws TemplateException if it is no valid template, or needs a filter or test that does not exist
     */
    public static ChatTemplate parse(String source) {
        return new ChatTemplate(Parser.parse(Objects.requireNonNull(source, "source")),
                GENERATION.matcher(source).find(), Limits.DEFAULT, Clock.systemDefaultZone());
    }

    /**
     * The same template with other limits.
     *
     * @param limits what a rendering may use
     * @return a template with these limits
     */
    public ChatTemplate withLimits(Limits limits) {
        return new ChatTemplate(body, marksGeneration, Objects.requireNonNull(limits, "limits"), clock);
    }

    /**
     * The same template with another clock.
     *
     * @param clock the time and zone that {@code strftime_now} shows
     * @return a template with this clock
     */
    public ChatTemplate withClock(Clock clock) {
        return new ChatTemplate(body, marksGeneration, limits, Objects.requireNonNull(clock, "clock"));
    }

    /** Whether the template has {@code {% generation %}} blocks, in which the assistant speaks. */
    public boolean marksGeneration() {
        return marksGeneration;
    }

    /**
     * Renders the template.
     *
     * @param context the variables: strings, numbers (Long, Integer, Double, BigInteger and the like), booleans,
     *                null, and lists and maps of them
     * @return the text
     * @throws TemplateException if the template fails, with its line, or the context holds anything else
     */
    public String render(Map<String, ?> context) {
        return renderWithSpans(context).text();
    }

    /**
     * Renders the template and tells which parts came from its generation blocks.
     *
     * @param context the variables, as for {@link #render}
     * @return the text and the spans
     * @throws TemplateException as {@link #render}
     */
    public Rendered renderWithSpans(Map<String, ?> context) {
        Session session = new Session(limits, clock);
        try {
            Scope globals = new Scope(null);
            Globals.define(globals);
            for (Map.Entry<String, ?> variable : context.entrySet()) {
                globals.set(variable.getKey(), HostValues.convert(variable.getValue(), variable.getKey(), 0));
            }
            session.push();
            new Executor(new Interpreter(session)).run(body, new Scope(globals));
            return new Rendered(session.out().text(), session.out().spans());
        } catch (Fault fault) {
            throw new TemplateException(fault.kind, fault.getMessage(), session.line, fault);
        } catch (StackOverflowError deep) {
            throw new TemplateException(Kind.LIMIT, "the template nests deeper than this thread's stack allows: endless"
                    + " recursion, or render it in a thread with a larger stack", session.line, deep);
        }
    }
}
