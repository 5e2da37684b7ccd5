package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import qlora4j.template.Rendered;
import qlora4j.template.Rendered.Span;
import qlora4j.template.TemplateException;

/**
 * The model's own chat template over a conversation; a prompt and its completion are one of two messages.
 *
 * <p>With {@link LossOn#COMPLETION} the last answer is learned: what the whole conversation adds to its prompt (TRL's
 * rule for prompt and completion). With {@link LossOn#ASSISTANT} every answer is: the template's
 * {@code {% generation %}} blocks, as transformers' {@code return_assistant_tokens_mask} takes them; where the template
 * has none, each answer is what the conversation up to it adds to the prompt before it.
 */
record ChatPrompt(ChatRenderer chat, LossOn loss) implements PromptTemplate {
    private static final int SHOWN = 60;
    private static final String TEMPLATE = FLAG + " " + CHAT;

    /** A conversation, and how many of its messages are the prompt's, or -1. */
    private record Given(Chat chat, int prompt) {
    }

    /** What was rendered of it: the learned parts of the text, in order, and the messages that are in it. */
    private record Marked(Chat chat, String text, List<Span> learned, int trailing, boolean spaced) {
    }

    /** A prompt's end in the text of the whole conversation, and whether only white space differed before it. */
    private record End(int index, boolean spaced) {
    }

    @Override
    public Example apply(Row row) {
        Marked marked = mark(row);
        return example(marked, cut(marked.text.length(), marked.learned));
    }

    @Override
    public Example explain(Row row) {
        Marked marked = mark(row);
        if (marked.text.isEmpty()) {
            return example(marked, List.of());
        }
        return ChatOrigins.refine(chat, marked.chat, example(marked, cut(marked.text.length(), marked.learned)));
    }

    private static Given given(Row row) {
        return switch (row) {
            case Row.Alpaca alpaca -> new Given(Chat.of(Alpaca.request(alpaca), alpaca.output()), 1);
            case Row.PromptCompletion pair -> new Given(Chat.of(pair.prompt(), pair.completion()), 1);
            case Row.Conversation c -> new Given(c.chat(), c.given());
            case Row.Text _ -> throw new DataException(TEMPLATE
                    + " needs messages, or a prompt and its completion, but this is one text: " + row.where());
        };
    }

    private Marked mark(Row row) {
        Given given = given(row);
        Chat whole = given.chat;
        int last = whole.lastAnswer();
        if (loss != LossOn.ALL && (last < 0 || last < given.prompt)) {
            return new Marked(whole, "", List.of(), 0, false);
        }
        int messages = whole.messages().size();
        int kept = loss == LossOn.ALL ? messages : last + 1;
        Chat used = whole.first(kept);
        Rendered rendered = render(row, used, false);
        String text = rendered.text();
        List<End> ends = new ArrayList<>();
        List<Span> learned = switch (loss) {
            case ALL -> List.of(new Span(0, text.length()));
            case COMPLETION -> {
                ends.add(promptEnd(row, used, given.prompt < 0 ? last : given.prompt, text));
                yield List.of(new Span(ends.getFirst().index, text.length()));
            }
            case ASSISTANT -> chat.marksGeneration() ? marked(row, used, given.prompt, rendered)
                    : answers(row, used, given.prompt, text, ends);
        };
        boolean exact = loss == LossOn.ASSISTANT && chat.marksGeneration();
        String ended = endsWithEos(text.stripTrailing()) ? text.stripTrailing() : text;
        if (!exact || learned.isEmpty() || learned.getLast().end() <= ended.length()) {
            text = ended;
            learned = clipped(learned, text.length());
        }
        return new Marked(used, text, learned, messages - kept, ends.stream().anyMatch(End::spaced));
    }

    private static List<Span> clipped(List<Span> spans, int length) {
        return spans.stream().map(s -> new Span(s.start(), Math.min(s.end(), length)))
                .filter(s -> s.start() < s.end()).toList();
    }

    private boolean endsWithEos(String text) {
        return chat.eosText() != null && text.endsWith(chat.eosText());
    }

    private Rendered render(Row row, Chat part, boolean addGenerationPrompt) {
        try {
            return chat.render(part, addGenerationPrompt);
        } catch (TemplateException e) {
            throw new DataException(row.where() + ": the model's chat template refuses the conversation (line "
                    + e.line() + " of the template): " + e.getMessage(), e);
        }
    }

    /**
     * Where the text goes on behind the first messages and the header of an answer. Many published templates write the
     * header of an answer to come with other white space than one that is there; that is overlooked, and reported.
     */
    private End promptEnd(Row row, Chat whole, int messages, String text) {
        if (messages == 0) {
            return new End(firstAnswer(row, text), false);
        }
        String prompt = render(row, whole.first(messages), true).text();
        boolean exact = text.startsWith(prompt);
        int end = exact ? prompt.length() : spacedEnd(prompt, text);
        if (end < 0) {
            int same = 0;
            while (same < Math.min(prompt.length(), text.length()) && prompt.charAt(same) == text.charAt(same)) {
                same++;
            }
            throw new DataException(TEMPLATE
                    + ": the model's chat template writes a conversation that does not begin with its own prompt, so"
                    + " the answer cannot be told from it (" + row.where() + ": \"" + excerpt(prompt, same)
                    + "\" in the prompt, \"" + excerpt(text, same) + "\" in the conversation); give a template file"
                    + " instead, or a chat template with {% generation %} blocks and --assistant-only-loss");
        }
        if (text.length() == end) {
            throw new DataException(TEMPLATE + ": the model's chat template leaves the answer out (" + row.where()
                    + "); give a template file instead");
        }
        return new End(end, !exact);
    }

    /** The end of a prompt in a text from which it differs by white space alone, or -1. */
    private static int spacedEnd(String prompt, String text) {
        int at = 0;
        for (int i = 0; i < prompt.length(); i++) {
            char c = prompt.charAt(i);
            int here = at;
            while (here < text.length() && text.charAt(here) != c && Character.isWhitespace(text.charAt(here))) {
                here++;
            }
            if (here < text.length() && text.charAt(here) == c) {
                at = here + 1;
            } else if (!Character.isWhitespace(c)) {
                return -1;
            }
        }
        return at;
    }

    /** Behind the header of an answer that nothing stands before; templates need a message to show it. */
    private int firstAnswer(Row row, String text) {
        Chat question = new Chat(List.of(Chat.message("user", "?")), null, Map.of());
        String with = render(row, question, true).text();
        String without = render(row, question, false).text();
        int header = with.startsWith(without) ? text.indexOf(with.substring(without.length())) : -1;
        if (header < 0) {
            throw new DataException(row.where() + ": the conversation begins with an answer, whose place the model's"
                    + " chat template does not tell; remove it or put a message before it");
        }
        return header + with.length() - without.length();
    }

    private static String excerpt(String text, int from) {
        String shown = text.substring(from, Math.min(text.length(), from + SHOWN));
        return shown.replace("\n", "\\n");
    }

    /** The template's own marks, those before the completion left out where the row has one. */
    private List<Span> marked(Row row, Chat whole, int given, Rendered rendered) {
        int from = given < 0 ? 0 : render(row, whole.first(given), false).text().length();
        return rendered.generationSpans().stream().filter(s -> s.start() >= from && s.end() > s.start())
                .sorted(Comparator.comparingInt(Span::start)).toList();
    }

    /** Each answer by prefixes of the conversation; white space behind its EOS is left out. */
    private List<Span> answers(Row row, Chat whole, int given, String text, List<End> ends) {
        List<Span> spans = new ArrayList<>();
        int count = whole.messages().size();
        for (int k = Math.max(given, 0); k < count; k++) {
            if (whole.role(k).equals(Chat.ASSISTANT)) {
                ends.add(promptEnd(row, whole, k, text));
                int start = ends.getLast().index;
                spans.add(new Span(start, answerEnd(row, whole, k, text, start)));
            }
        }
        return spans;
    }

    private int answerEnd(Row row, Chat whole, int answer, String text, int start) {
        if (answer == whole.messages().size() - 1) {
            return text.length();
        }
        String with = render(row, whole.first(answer + 1), false).text();
        if (text.startsWith(with) && with.length() > start) {
            String ended = with.stripTrailing();
            return endsWithEos(ended) && ended.length() > start ? ended.length() : with.length();
        }
        // A template that writes a last answer otherwise than an earlier one: the answer ends with its EOS.
        int eos = chat.eosText() == null ? -1 : text.indexOf(chat.eosText(), start);
        if (eos < 0) {
            throw new DataException(TEMPLATE + ": message " + (answer + 1) + " cannot be told from the rest of the"
                    + " conversation, since the model's chat template writes it otherwise when more follows ("
                    + row.where() + "); leave --assistant-only-loss away, or give the model a chat template with"
                    + " {% generation %} blocks");
        }
        return eos + chat.eosText().length();
    }

    /** The stretches of the text between the borders of what is learned. */
    private static List<int[]> cut(int length, List<Span> learned) {
        List<int[]> pieces = new ArrayList<>();
        int at = 0;
        for (Span span : learned) {
            if (span.start() > at) {
                pieces.add(new int[]{at, span.start(), 0});
            }
            pieces.add(new int[]{Math.max(at, span.start()), span.end(), 1});
            at = Math.max(at, span.end());
        }
        if (at < length) {
            pieces.add(new int[]{at, length, 0});
        }
        return pieces;
    }

    private Example example(Marked marked, List<int[]> pieces) {
        List<Segment> segments = pieces.stream().filter(p -> p[0] < p[1]).map(p -> new Segment(
                marked.text.substring(p[0], p[1]), p[2] == 1 ? Chat.ASSISTANT : Segment.PROMPT, null, p[2] == 1))
                .toList();
        return new Example(segments, Example.JOINED, true, loss == LossOn.ALL, marked.trailing, marked.spaced);
    }

    @Override
    public String masks() {
        if (loss != LossOn.ASSISTANT) {
            return null;
        }
        return chat.marksGeneration() ? "answers are what the chat template's {% generation %} blocks mark"
                : "the chat template has no {% generation %} blocks; an answer is what the conversation up to it adds"
                        + " to the prompt before it";
    }
}
