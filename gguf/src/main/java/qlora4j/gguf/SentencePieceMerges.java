package qlora4j.gguf;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * The merges of a SentencePiece byte-pair vocabulary, which records only its pieces and their scores. SentencePiece
 * joins the two neighbours whose union has the best score; a list of merges does the same when it holds every way to
 * split every piece into two pieces, best score first (as transformers' {@code generate_merges}).
 */
final class SentencePieceMerges {
    private SentencePieceMerges() {
    }

    private record Merge(String left, String right, double score) {
    }

    /**
     * The merges in order, as pairs.
     *
     * @param ids of the pieces that may be made and joined
     * @param scores by id
     */
    static List<String[]> of(Map<String, Integer> ids, double[] scores) {
        List<Merge> merges = new ArrayList<>();
        ids.forEach((piece, id) -> {
            for (int i = piece.offsetByCodePoints(0, 1); i < piece.length(); i += Character
                    .charCount(piece.codePointAt(i))) {
                String left = piece.substring(0, i);
                String right = piece.substring(i);
                if (ids.containsKey(left) && ids.containsKey(right)) {
                    merges.add(new Merge(left, right, scores[id]));
                }
            }
        });
        // The last two keys only settle ties, so that the same vocabulary gives the same file.
        merges.sort(Comparator.comparingDouble((Merge m) -> -m.score).thenComparingInt(m -> ids.get(m.left + m.right))
                .thenComparingInt(m -> ids.get(m.left)).thenComparingInt(m -> ids.get(m.right)));
        return merges.stream().map(m -> new String[]{m.left, m.right}).toList();
    }
}
