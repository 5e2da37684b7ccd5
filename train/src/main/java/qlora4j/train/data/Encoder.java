package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import qlora4j.train.data.TextEncoder.Offsets;

/**
 * Makes token ids of examples. A prompt and its completion are encoded apart, as they are when text is generated; a
 * conversation in one, as transformers encodes it, and a token is learned that holds a character of what is.
 *
 * <ul>
 * <li>BOS stands first, once, and only if the tokenizer adds it by itself or the template writes it.</li>
 * <li>What is learned to its end ends with EOS, once: it is appended unless the text ends with it. A chat template that
 * ends a turn with EOS and white space loses the white space: generation stops at EOS too.</li>
 * <li>A row longer than the limit loses the beginning of its prompt, behind BOS; the (last) completion and EOS are never
 * cut. Where these alone fill the limit, the row is dropped and counted. A row that is learned whole loses its end.</li>
 * </ul>
 */
public final class Encoder {
    /** The segment of a token that no segment's text holds: BOS and EOS that were added. */
    public static final int ADDED = -1;
    /** Any text will do to see what the tokenizer puts before one. */
    private static final String PROBE = "a";
    private static final int SHOWN = 5;

    private final TextEncoder text;
    private final int eos;
    private final int maxLength;
    private final int[] bos;

    /** A row before it is cut: BOS, how many of the ids it is, which ids are learned, and where each comes from. */
    private record Encoded(int[] ids, int bos, BitSet learned, int[] segments, Example example) {
    }

    /**
     * A row and where its tokens come from.
     *
     * @param row      the tokens, or null where the row would be dropped
     * @param example  the text and its segments
     * @param segments the segment that each token's first character is of, or {@link #ADDED}
     */
    public record Explained(TokenizedRow row, Example example, int[] segments) {
    }

    /**
     * An encoder of one tokenizer.
     *
     * @param eos       the id of the token that ends a row
     * @param maxLength the most tokens that a row may have, from 2
     */
    public Encoder(TextEncoder text, int eos, int maxLength) {
        if (eos < 0) {
            throw new IllegalArgumentException("EOS must be a token's id, not " + eos);
        }
        if (maxLength < 2) {
            throw new IllegalArgumentException("--max-seq-length must be 2 or more, not " + maxLength);
        }
        this.text = text;
        this.eos = eos;
        this.maxLength = maxLength;
        this.bos = before(text.encode(PROBE, true), text.encode(PROBE, false));
    }

    /** What stands before {@code plain} in {@code added}; what a tokenizer adds behind a text is not for a prompt. */
    private static int[] before(int[] added, int[] plain) {
        for (int at = 0; at + plain.length <= added.length; at++) {
            if (Arrays.equals(added, at, at + plain.length, plain, 0, plain.length)) {
                return Arrays.copyOf(added, at);
            }
        }
        throw new DataException("the tokenizer encodes \"" + PROBE + "\" as " + Arrays.toString(plain)
                + " but with special tokens as " + Arrays.toString(added) + ": they must be added around a text");
    }

    /**
     * Encodes all rows.
     *
     * @throws DataException where the template does not fit a row, or no row is left
     */
    public TokenizedData encode(List<Row> rows, PromptTemplate template) {
        List<TokenizedRow> kept = new ArrayList<>();
        List<Row> sources = new ArrayList<>();
        List<String> tooLong = new ArrayList<>();
        List<String> unlabelled = new ArrayList<>();
        int shortened = 0;
        int ends = 0;
        long cut = 0;
        int answers = 0;
        int messages = 0;
        int unended = 0;
        int spaced = 0;
        for (Row row : rows) {
            Encoded encoded = encode(template.apply(row), false);
            if (encoded.learned.nextSetBit(1) < 0) {
                unlabelled.add(row.where());
                continue;
            }
            TokenizedRow fit = fit(encoded);
            if (fit == null) {
                tooLong.add(row.where());
                continue;
            }
            kept.add(fit);
            sources.add(row);
            messages += encoded.example.trailing();
            if (encoded.example.whole()) {
                ends += fit.length() < encoded.ids.length ? 1 : 0;
                cut += encoded.ids.length - fit.length();
            } else {
                shortened += fit.promptCut() > 0 ? 1 : 0;
                int first = encoded.learned.nextSetBit(encoded.bos);
                answers += first < encoded.bos + fit.promptCut() ? 1 : 0;
            }
            unended += learnsEos(fit) ? 0 : 1;
            spaced += encoded.example.spaced() ? 1 : 0;
        }
        if (kept.isEmpty()) {
            List<String> dropped = tooLong.isEmpty() ? unlabelled : tooLong;
            throw new DataException("no row is left to train on: of " + rows.size() + ", " + tooLong.size()
                    + " have a completion that alone fills --max-seq-length " + maxLength + ", and " + unlabelled.size()
                    + " one without tokens (" + String.join("; ", dropped.subList(0, Math.min(SHOWN, dropped.size())))
                    + ")");
        }
        return new TokenizedData(kept, sources, new DataReport(maxLength, rows.size(), kept.size(), shortened, tooLong,
                unlabelled, kept.stream().mapToLong(TokenizedRow::length).sum(),
                kept.stream().mapToLong(TokenizedRow::labelTokens).sum(),
                new DataReport.Losses(ends, cut, answers, messages, unended, spaced)));
    }

    /** Whether a row teaches to end: some EOS in it is learned. */
    public boolean learnsEos(TokenizedRow row) {
        for (int i = row.length() - 1; i > 0; i--) {
            if (row.ids()[i] == eos && row.learned(i)) {
                return true;
            }
        }
        return false;
    }

    /** Whether a row begins with BOS twice. */
    public boolean doublesBos(TokenizedRow row) {
        int n = bos.length;
        return n > 0 && row.length() >= 2 * n && Arrays.equals(row.ids(), 0, n, bos, 0, n)
                && Arrays.equals(row.ids(), n, 2 * n, bos, 0, n);
    }

    /** Encodes one row and tells where its tokens come from. */
    public Explained explain(Row row, PromptTemplate template) {
        Encoded encoded = encode(template.explain(row), true);
        TokenizedRow fit = encoded.learned.nextSetBit(1) < 0 ? null : fit(encoded);
        int n = fit == null ? encoded.ids.length : fit.length();
        int cut = fit == null || encoded.example.whole() ? 0 : encoded.ids.length - n;
        int bosKept = Math.min(encoded.bos, n);
        int[] segments = new int[n];
        for (int i = 0; i < n; i++) {
            segments[i] = encoded.segments[i < bosKept ? i : i + cut];
        }
        return new Explained(fit, encoded.example, segments);
    }

    private Encoded encode(Example example, boolean origins) {
        return example.joined() ? joined(example) : apart(example, origins);
    }

    private Encoded joined(Example example) {
        String whole = example.text();
        Offsets offsets = text.encodeWithOffsets(whole);
        int[] added = example.specials() || startsWithBos(offsets.ids()) ? new int[0] : bos;
        int n = offsets.ids().length;
        int[] ids = Arrays.copyOf(added, added.length + n + 1);
        int[] segments = new int[ids.length];
        Arrays.fill(segments, ADDED);
        BitSet learned = new BitSet();
        int[] ends = ends(example.segments());
        for (int t = 0, s = 0; t < n; t++) {
            int at = added.length + t;
            ids[at] = offsets.ids()[t];
            // A token without extent stands for the white space before its place.
            int start = Math.min(offsets.starts()[t], Math.max(0, offsets.ends()[t] - 1));
            while (s < ends.length - 1 && ends[s] <= start) {
                s++;
            }
            segments[at] = s;
            for (int over = s; over < ends.length && (over == s || ends[over - 1] < offsets.ends()[t]); over++) {
                if (example.segments().get(over).trained()) {
                    learned.set(at);
                }
            }
        }
        int length = added.length + n;
        int last = length - 1;
        while (last > added.length && whole.substring(offsets.starts()[last - added.length],
                offsets.ends()[last - added.length]).isBlank()) {
            last--;
        }
        if (length > 0 && learned.get(length - 1) && ids[last] != eos) {
            ids[length] = eos;
            learned.set(length++);
        }
        int before = startsWithBos(ids) ? bos.length : 0;
        return new Encoded(Arrays.copyOf(ids, length), before, learned, segments, example);
    }

    private static int[] ends(List<Segment> segments) {
        int[] ends = new int[segments.size()];
        int end = 0;
        for (int s = 0; s < ends.length; s++) {
            end += segments.get(s).text().length();
            ends[s] = end;
        }
        return ends;
    }

    private boolean startsWithBos(int[] ids) {
        return ids.length >= bos.length && Arrays.equals(ids, 0, bos.length, bos, 0, bos.length);
    }

    private Encoded apart(Example example, boolean origins) {
        List<Segment> given = example.segments().subList(0, example.apart());
        List<Segment> rest = example.segments().subList(example.apart(), example.segments().size());
        int[] prompt = text.encode(Example.text(given), false);
        int[] completion = text.encode(Example.text(rest), false);
        int[] added = startsWithBos(prompt) ? new int[0] : bos;
        boolean ended = completion.length == 0 || completion[completion.length - 1] == eos;
        int[] ids = Arrays.copyOf(added, added.length + prompt.length + completion.length + (ended ? 0 : 1));
        System.arraycopy(prompt, 0, ids, added.length, prompt.length);
        System.arraycopy(completion, 0, ids, added.length + prompt.length, completion.length);
        BitSet learned = new BitSet();
        if (!ended) {
            ids[ids.length - 1] = eos;
        }
        if (completion.length > 0) {
            learned.set(example.whole() ? bos.length : added.length + prompt.length, ids.length);
        }
        int[] segments = new int[ids.length];
        Arrays.fill(segments, ADDED);
        if (origins) {
            origins(given, 0, segments, added.length);
            origins(rest, given.size(), segments, added.length + prompt.length);
        }
        return new Encoded(ids, bos.length, learned, segments, example);
    }

    private void origins(List<Segment> part, int firstSegment, int[] segments, int firstToken) {
        if (part.isEmpty()) {
            return;
        }
        Offsets offsets = text.encodeWithOffsets(Example.text(part));
        int[] ends = ends(part);
        for (int t = 0, s = 0; t < offsets.ids().length; t++) {
            int start = Math.min(offsets.starts()[t], Math.max(0, offsets.ends()[t] - 1));
            while (s < ends.length - 1 && ends[s] <= start) {
                s++;
            }
            segments[firstToken + t] = firstSegment + s;
        }
    }

    /** The row within the limit, or null where what must not be cut fills it. */
    private TokenizedRow fit(Encoded encoded) {
        int[] ids = encoded.ids;
        if (encoded.example.whole()) {
            int length = Math.min(ids.length, maxLength);
            int[] runs = runs(encoded.learned, 0, length);
            return runs.length == 0 || runs[runs.length - 1] < 2 ? null
                    : new TokenizedRow(Arrays.copyOf(ids, length), runs, 0);
        }
        int lastRun = encoded.learned.previousClearBit(encoded.learned.length() - 1) + 1;
        if (ids.length - lastRun >= maxLength) {
            return null;
        }
        int cut = Math.max(0, ids.length - maxLength);
        int bosKept = encoded.bos;
        int promptCut = Math.min(cut, Math.max(0, lastRun - bosKept));
        // Only a BOS of several tokens can be left too long for the room before a completion.
        bosKept -= cut - promptCut;
        int[] kept = Arrays.copyOf(ids, ids.length - cut);
        System.arraycopy(ids, bosKept + cut, kept, bosKept, kept.length - bosKept);
        BitSet learned = encoded.learned.get(cut, ids.length);
        learned.clear(0, bosKept);
        return new TokenizedRow(kept, runs(learned, 0, kept.length), promptCut);
    }

    private static int[] runs(BitSet learned, int from, int to) {
        int[] runs = new int[2 * (to - from)];
        int count = 0;
        for (int i = learned.nextSetBit(from); i >= 0 && i < to; i = learned.nextSetBit(runs[count - 1])) {
            runs[count++] = i;
            runs[count++] = Math.min(to, learned.nextClearBit(i));
        }
        return Arrays.copyOf(runs, count);
    }
}
