package qlora4j.gguf;

import java.util.Set;

/**
 * The order of the rows of query and key projections. Hugging Face turns feature i of a head together with feature
 * {@code i + headDim/2}. llama.cpp, for the llama family alone, turns neighbours 2i and 2i + 1, so its converter
 * interleaves a head's two halves (convert_hf_to_gguf.py, {@code LlamaModel.permute}).
 *
 * @param heads of the projection
 * @param headDim rows of each
 */
record RotaryLayout(int heads, int headDim) {
    private static final Set<String> INTERLEAVED = Set.of("llama", "mistral");

    /** The layout of a tensor in Hugging Face's names, or null where its rows are in the same order in both. */
    static RotaryLayout of(String modelType, String name, int heads, int kvHeads, int headDim) {
        if (!INTERLEAVED.contains(modelType)) {
            return null;
        }
        if (name.contains(".self_attn.q_proj.")) {
            return new RotaryLayout(heads, headDim);
        }
        return name.contains(".self_attn.k_proj.") ? new RotaryLayout(kvHeads, headDim) : null;
    }

    /** The row of a GGUF tensor that is row {@code row} in Hugging Face's order. */
    long ggufRow(long row) {
        long inHead = row % headDim;
        long half = headDim / 2;
        return row - inHead + inHead % half * 2 + inHead / half;
    }

    /** The row in Hugging Face's order that is row {@code row} of a GGUF tensor. */
    long huggingFaceRow(long row) {
        long inHead = row % headDim;
        return row - inHead + inHead % 2 * (headDim / 2) + inHead / 2;
    }
}
