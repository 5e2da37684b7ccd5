package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Makes token ids of examples. Prompt and completion are encoded apart, as they are when text is generated.
 *
 * <ul>
 * <li>BOS stands first, once, and only if the tokenizer adds it by itself or the template writes it.</li>
 * <li>A row ends with EOS, once: it is appended unless the completion ends with it. A chat template that ends a turn
 * with EOS and white space loses the white space: generation stops at EOS too.</li>
 * <li>A row longer than the limit loses the beginning of its prompt, behind BOS; completion and EOS are never cut.
 * Where these alone fill the limit, the row is dropped and counted.</li>
 * </ul>
 */
public final class Encoder {
    /** Any text will do to see what the tokenizer puts before one. */
    private static final String PROBE = "a";
    private static final int SHOWN = 5;

    private final TextEncoder text;
    private final int eos;
    private final int maxLength;
    private final int[] bos;

    /**
     * A row's parts before it is cut, BOS apart from the prompt in every case; the completion ends with EOS, or is
     * empty where the text gave no tokens.
     */
    private record Parts(int[] bos, int[] prompt, int[] completion) {
        int length() {
            return bos.length + prompt.length + completion.length;
        }
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
        for (Row row : rows) {
            Parts parts = parts(template.apply(row), template.writesSpecialTokens());
            if (parts.completion.length == 0) {
                unlabelled.add(row.where());
            } else if (parts.completion.length >= maxLength) {
                tooLong.add(row.where());
            } else {
                kept.add(fit(parts));
                sources.add(row);
            }
        }
        if (kept.isEmpty()) {
            List<String> dropped = tooLong.isEmpty() ? unlabelled : tooLong;
            throw new DataException("no row is left to train on: of " + rows.size() + ", " + tooLong.size()
                    + " have a completion that alone fills --max-seq-length " + maxLength + ", and " + unlabelled.size()
                    + " one without tokens (" + String.join("; ", dropped.subList(0, Math.min(SHOWN, dropped.size())))
                    + ")");
        }
        return new TokenizedData(kept, sources, new DataReport(maxLength, rows.size(), kept.size(),
                (int) kept.stream().filter(row -> row.promptCut() > 0).count(), tooLong, unlabelled,
                kept.stream().mapToLong(TokenizedRow::length).sum(),
                kept.stream().mapToLong(TokenizedRow::labelTokens).sum()));
    }

    private Parts parts(Example example, boolean writesSpecialTokens) {
        int[] prompt = text.encode(example.prompt(), false);
        int[] completion = completion(example.completion(), writesSpecialTokens);
        if (prompt.length >= bos.length && Arrays.equals(prompt, 0, bos.length, bos, 0, bos.length)) {
            return new Parts(bos, Arrays.copyOfRange(prompt, bos.length, prompt.length), completion);
        }
        return new Parts(writesSpecialTokens ? new int[0] : bos, prompt, completion);
    }

    private int[] completion(String completion, boolean writesSpecialTokens) {
        int[] ids = text.encode(writesSpecialTokens ? completion.stripTrailing() : completion, false);
        if (endsWithEos(ids)) {
            return ids;
        }
        if (writesSpecialTokens) {
            ids = text.encode(completion, false);
        }
        if (ids.length == 0 || endsWithEos(ids)) {
            return ids;
        }
        int[] ended = Arrays.copyOf(ids, ids.length + 1);
        ended[ids.length] = eos;
        return ended;
    }

    private boolean endsWithEos(int[] ids) {
        return ids.length > 0 && ids[ids.length - 1] == eos;
    }

    private TokenizedRow fit(Parts parts) {
        int cut = Math.max(0, parts.length() - maxLength);
        int promptCut = Math.min(cut, parts.prompt.length);
        // Only a BOS of several tokens can be left too long for the room before a completion.
        int bosKept = parts.bos.length - (cut - promptCut);
        int promptLength = bosKept + parts.prompt.length - promptCut;
        int[] ids = Arrays.copyOf(parts.bos, promptLength + parts.completion.length);
        System.arraycopy(parts.prompt, promptCut, ids, bosKept, promptLength - bosKept);
        System.arraycopy(parts.completion, 0, ids, promptLength, parts.completion.length);
        return new TokenizedRow(ids, promptLength, promptCut);
    }
}
