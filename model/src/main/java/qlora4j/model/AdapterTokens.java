package qlora4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import qlora4j.lora.Linear;
import qlora4j.lora.PeftAdapter;
import qlora4j.lora.TrainableTokens;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Tensor;

/** What an {@link Adapter} does about tokens of its own, when it is made and when it is read. */
final class AdapterTokens {
    private AdapterTokens() {
    }

    /** A tied head has the rows of the embedding. */
    static TrainableTokens of(Decoder decoder, TrainableTokens tokens) {
        List<Integer> head = tokens.of(TrainableTokens.HEAD);
        if (!decoder.config().tieWordEmbeddings() || head.isEmpty()) {
            return tokens;
        }
        if (!head.equals(tokens.of(TrainableTokens.EMBEDDING))) {
            throw new IllegalArgumentException(
                    "trainable_token_indices: " + tokens + ": the model's head is tied to its"
                            + " embedding, so both have the same rows");
        }
        return new TrainableTokens(Map.of(TrainableTokens.EMBEDDING, head));
    }

    /** Rows that change nothing: the base's own, and the mean of all of them for tokens that it lacks. */
    static Tensor first(Decoder decoder, Tensor base, List<Integer> ids) {
        Backend backend = decoder.backend();
        Tensor rows = Tensor.zeros(Linear.wide(decoder.type()), ids.size(), base.cols());
        Tensor mean = ids.stream().anyMatch(id -> id >= base.rows()) ? TokenTable.mean(backend, base) : null;
        for (int i = 0; i < ids.size(); i++) {
            int id = ids.get(i);
            rows.rows(i, i + 1).copyFrom(id < base.rows() ? TokenTable.host(backend, base.rows(id, id + 1)) : mean);
        }
        return rows;
    }

    /**
     * Takes away the embeddings that PEFT writes whole because the vocabulary has grown, where the adapter's tokens say
     * all that is new in them.
     *
     * @return whether the tokens are to be used; if not, {@code whole} has them
     */
    static boolean dropGrown(Decoder decoder, PeftAdapter file, Map<String, Tensor> whole) {
        List<String> grown = List.of(ModelTensors.EMBEDDING, ModelTensors.HEAD).stream().filter(whole::containsKey)
                .toList();
        for (String name : grown) {
            String module = name.substring(0, name.length() - ".weight".length());
            boolean tied = module.equals(TrainableTokens.HEAD) && decoder.config().tieWordEmbeddings();
            List<Integer> ids = file.config().tokens().of(tied ? TrainableTokens.EMBEDDING : module);
            Tensor base = decoder.others().get(name).base();
            Tensor own = whole.get(name);
            if (ids.isEmpty() || own.rank() != 2 || own.cols() != base.cols() || own.rows() < base.rows()
                    || !ids.containsAll(IntStream.range(base.rows(), own.rows()).boxed().toList())
                    || !sameRows(decoder, base, own, ids)) {
                return false;
            }
        }
        grown.forEach(whole::remove);
        return true;
    }

    /** Whether all rows but some are the base's. */
    private static boolean sameRows(Decoder decoder, Tensor base, Tensor own, List<Integer> but) {
        Set<Integer> skipped = Set.copyOf(but);
        for (int i = 0; i < base.rows(); i++) {
            if (!skipped.contains(i) && !Arrays.equals(
                    TokenTable.host(decoder.backend(), base.rows(i, i + 1)).toFloats(),
                    Tensor.zeros(base.dtype(), 1, base.cols()).copyFrom(own.rows(i, i + 1)).toFloats())) {
                return false;
            }
        }
        return true;
    }
}
