package qlora4j.train.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * What a step reads, with the origin of each token.
 *
 * @param step        from 0
 * @param samples     in the order that they are read
 * @param labelTokens how many tokens the step learns; each weighs one over that number in the loss
 */
public record ExplainedBatch(int step, List<Sample> samples, int labelTokens) {
    /**
     * A row of the step.
     *
     * @param row        its index in the data that is trained on
     * @param where      its place in the file
     * @param microBatch the micro-batch that it is in, from 0
     * @param segment    its number in the micro-batch, from 0: attention stays within it
     * @param promptCut  tokens that were cut away behind BOS
     * @param tokens     in order
     */
    public record Sample(int row, String where, int microBatch, int segment, int promptCut, List<Token> tokens) {
    }

    /**
     * A token.
     *
     * @param position from 0 in its sample
     * @param role     whose text it is of, or null where the encoder added it
     * @param field    the column or part of a message that it came from, or null for text of the template
     * @param learned  whether the token before it is trained to predict it
     */
    public record Token(int position, int id, String role, String field, boolean learned) {
        /** Where the token comes from, in a word: {@code added}, {@code template}, or the field. */
        public String origin() {
            return role == null ? "added" : field == null ? "template" : field;
        }
    }

    /** Explains a step. */
    public static ExplainedBatch of(TokenizedData data, GlobalBatch batch, Encoder encoder, PromptTemplate template) {
        List<Sample> samples = new ArrayList<>();
        int next = 0;
        for (int m = 0; m < batch.microBatches().size(); m++) {
            for (int s = 0; s < batch.microBatches().get(m).samples(); s++) {
                int row = batch.rows().get(next++);
                samples.add(sample(data, row, m, s, encoder, template));
            }
        }
        return new ExplainedBatch(batch.step(), samples, batch.labelTokens());
    }

    private static Sample sample(TokenizedData data, int row, int microBatch, int segment, Encoder encoder,
            PromptTemplate template) {
        Row source = data.sources().get(row);
        TokenizedRow trained = data.rows().get(row);
        Encoder.Explained explained = encoder.explain(source, template);
        if (explained.row() == null || !Arrays.equals(explained.row().ids(), trained.ids())
                || !Arrays.equals(explained.row().runs(), trained.runs())) {
            throw new IllegalStateException(source.where() + ": explained as other tokens than those trained on");
        }
        List<Token> tokens = new ArrayList<>();
        for (int i = 0; i < trained.length(); i++) {
            int from = explained.segments()[i];
            Segment s = from == Encoder.ADDED ? null : explained.example().segments().get(from);
            tokens.add(new Token(i, trained.ids()[i], s == null ? null : s.role(), s == null ? null : s.field(),
                    trained.learned(i)));
        }
        return new Sample(row, source.where(), microBatch, segment, trained.promptCut(), tokens);
    }
}
