package qlora4j.verify.vectors;

import java.util.Locale;

/**
 * A mistake, or a known divergence, that an implementation can make. It is a hypothesis: an operation is computed with
 * it, and where that gives the other implementation's numbers, it is a finding.
 */
public enum Fault {
    CODEBOOK_IN_DOUBLE("the NF4 values are derived in double throughout; spacing and division belong in float32"),
    NIBBLES_SWAPPED("the first element of a pair is in the low nibble; it belongs in the high one"),
    THRESHOLDS_IN_DOUBLE("numbers are compared with thresholds read as double; they are float32"),
    THRESHOLDS_ARE_MIDPOINTS(
            "thresholds are the values' midpoints in float32 (as bitsandbytes' CPU code has them); four of"
                    + " NF4's differ from the published ones by an ulp"),
    TIES_GO_UP("a number on a threshold moves up; only one above it does"),
    ROUNDED_DOWN("codes are rounded towards the lower value instead of the nearest"),
    DIVISION("numbers are divided by absmax; they are multiplied by its float32 reciprocal"),
    CONSTANT_CLAMPED("constants below 1e-38 are taken for 1e-38 (as bitsandbytes' CPU code does)"),
    CONSTANTS_BY_ROW(
            "an element's constant is that of block row·⌊columns/blocksize⌋ + column/blocksize (as bitsandbytes'"
                    + " CPU kernels take it); blocks run over the flattened tensor"),
    BLOCKS_RESTART_AT_ROWS("blocks restart at every row; they run over the flattened tensor"),
    FLUSH_TO_ZERO("subnormal constants or reciprocals are flushed to zero (as bitsandbytes' CUDA kernels do)"),
    ZERO_BLOCK_CODE_0("a block of zeros has code 0 (as bitsandbytes' CUDA kernels do); it has the code of 0"),
    OFFSET_NOT_SUBTRACTED("the mean of the constants is not subtracted before they are quantized"),
    OFFSET_NOT_ADDED("the mean of the constants is not added when they are dequantized"),
    MEAN_IN_FLOAT32("the mean of the constants is summed in float32; it is a double sum"),
    EIGHT_BIT_IN_BINS(
            "8-bit codes come from 65,536 bins (as bitsandbytes' CPU kernels do); they are the nearest values"),
    CONSTANTS_IN_BFLOAT16("the constants of the blocks are rounded to bfloat16 before they are used"),
    EMBEDDING_SCALED("the embedding is multiplied by √C (as Gemma does); it is the table's row"),
    REPEATED_TOKEN_OVERWRITES(
            "a token that is there more than once has the gradient of its last place; it has the sum of all"),
    TRANSPOSED("the weight is used transposed; it is [out, in] and y = x·Wᵀ"),
    BIAS_MISSING("the bias is not added"),
    SCALE_MISSING("the adapter's scale alpha/r is missing"),
    SCALE_IS_ALPHA("the adapter's scale is alpha; it is alpha/r"),
    SCALE_RANK_STABILIZED("the adapter's scale is alpha/√r (rank-stabilized); it is alpha/r"),
    GRADIENTS_UNSCALED("the adapter's gradients lack the scale alpha/r"),
    MAGNITUDE_IGNORED("DoRA's magnitudes are not used"),
    NORM_OF_BASE_ALONE("DoRA's norm is that of W; it is that of W + s·B·A"),
    NORM_OVER_INPUTS("DoRA's norm runs over a column of the weight; it runs over the inputs of each output"),
    NORM_NOT_DETACHED("DoRA's norm takes part in the gradient; it counts as a constant"),
    NORM_EPSILON_OUTSIDE_ROOT("RMSNorm's epsilon is added to the root; it is inside, beside the mean of the squares"),
    NORM_SUM_INSTEAD_OF_MEAN("RMSNorm takes the sum of the squares; it is their mean"),
    NORM_WEIGHT_PLUS_ONE("RMSNorm multiplies by 1 + weight (as Gemma does); it multiplies by the weight"),
    ROPE_INTERLEAVED("pairs of a head are neighbours (2j, 2j + 1); they are its halves, (j, j + D/2)"),
    ROPE_POSITION_OFF_BY_ONE("positions count from 1; they count from 0"),
    ROPE_THETA_IGNORED("the base of the frequencies is 10000 and not the configured theta"),
    ROPE_SCALING_MISSING("the frequencies are not scaled as llama3's configuration says"),
    ATTENTION_SCALE_MISSING("the scores are not multiplied by 1/√D"),
    NOT_CAUSAL("queries see the keys behind them"),
    MASK_OFF_BY_ONE("a query sees the key of the next position; the last it sees is its own"),
    HEADS_INTERLEAVED("query head h uses key/value head h mod kvHeads; it uses h / (heads / kvHeads)"),
    WINDOW_IGNORED("the sliding window is not applied"),
    WINDOW_OFF_BY_ONE("a query sees one key more than the window; its own counts among the W"),
    GATE_AND_UP_SWAPPED("silu is applied to up; it is applied to gate"),
    GELU_INSTEAD_OF_SILU("the activation is gelu (its tanh form); it is silu"),
    LABELS_UNSHIFTED("labels are not shifted: position t predicts token t+1"),
    MEAN_OVER_ALL_TOKENS("the loss is divided by the number of all tokens; only labels that are not -100 count"),
    MEAN_OF_ROW_MEANS("the loss is the mean of the rows' means; it is one mean over all labels"),
    SUM_INSTEAD_OF_MEAN("the loss is a sum; it is the mean over the labels"),
    CLIPPED_TENSOR_BY_TENSOR("each tensor is clipped by its own norm; the norm is that of all gradients together"),
    NOT_CLIPPED("gradients are not clipped"),
    WEIGHT_DECAY_COUPLED("weight decay is added to the gradient (Adam with L2); AdamW decays the parameter itself"),
    WEIGHT_DECAY_UNSCALED("weight decay is not multiplied by the learning rate"),
    EPSILON_INSIDE_ROOT("epsilon is inside the square root; it is added to the root"),
    NO_BIAS_CORRECTION("the moments' bias is not corrected"),
    MOMENTS_NOT_QUANTIZED("the moments go on in 32 bits; each step starts from what their 8-bit codes hold"),
    SECOND_MOMENT_IN_SIGNED_MAP("the second moment is quantized with the signed map; it has the unsigned one"),
    ONE_CONSTANT_FOR_ALL("one constant serves the whole tensor; each block of 256 has its own"),
    SIGN_NOT_KEPT("a small first moment may change its sign or become 0; its code stays on its own side");

    private final String explanation;

    Fault(String explanation) {
        this.explanation = explanation;
    }

    /** What is wrong, and what is right, in a sentence. */
    public String explanation() {
        return explanation;
    }

    /** The adapter's scale as an implementation with this mistake has it. */
    static double scale(Fault fault, double alpha, int rank) {
        return switch (fault) {
            case SCALE_MISSING -> 1;
            case SCALE_IS_ALPHA -> alpha;
            case SCALE_RANK_STABILIZED -> alpha / Math.sqrt(rank);
            case null, default -> alpha / rank;
        };
    }

    /** Its name as the verdict writes it, such as {@code nibbles-swapped}. */
    public String id() {
        return name().toLowerCase(Locale.ROOT).replace('_', '-');
    }
}
